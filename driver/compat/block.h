/* SPDX-License-Identifier: GPL-2.0 */
/* Block layer calls that differ between kernels, in one form. */
#ifndef UBLK_COMPAT_BLOCK_H
#define UBLK_COMPAT_BLOCK_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>

#include "../uapi/ublk_cmd.h"
#include "config.h"

#ifdef UBLK_HAVE_MQ_SHOULD_MERGE
#define UBLK_MQ_F_MERGE		BLK_MQ_F_SHOULD_MERGE
#else
#define UBLK_MQ_F_MERGE		0
#endif

/*
 * Lists of requests as queue_rqs() gets them. Where they have no type of their own, a plug hands
 * them over newest first.
 */
#ifdef UBLK_HAVE_RQ_LIST
typedef struct rq_list ublk_rq_list;
#define UBLK_RQ_LIST_NEWEST_FIRST	false

static inline struct request *ublk_rq_list_pop(ublk_rq_list *list)
{
	return rq_list_pop(list);
}

static inline void ublk_rq_list_append(ublk_rq_list *list, struct request *rq)
{
	rq_list_add_tail(list, rq);
}

static inline void ublk_rq_list_init(ublk_rq_list *list)
{
	rq_list_init(list);
}
#else
typedef struct request *ublk_rq_list;
#define UBLK_RQ_LIST_NEWEST_FIRST	true

static inline struct request *ublk_rq_list_pop(ublk_rq_list *list)
{
	return rq_list_pop(list);
}

static inline void ublk_rq_list_append(ublk_rq_list *list, struct request *rq)
{
	while (*list)
		list = &(*list)->rq_next;
	rq->rq_next = NULL;
	*list = rq;
}

static inline void ublk_rq_list_init(ublk_rq_list *list)
{
	*list = NULL;
}
#endif

/*
 * UBLK_DISK_OPEN(name) starts the definition of a function (struct gendisk *disk) returning int that
 * is the `open` operation of a disk; UBLK_DISK_RELEASE(name) that of its `release`, returning nothing.
 */
#ifdef UBLK_HAVE_DISK_OPEN_DISK
#define UBLK_DISK_OPEN(name)					\
static int name##_body(struct gendisk *disk);			\
static int name(struct gendisk *disk, blk_mode_t mode)		\
{								\
	return name##_body(disk);				\
}								\
static int name##_body(struct gendisk *disk)
#define UBLK_DISK_RELEASE(name)	static void name(struct gendisk *disk)
#else
#define UBLK_DISK_OPEN(name)					\
static int name##_body(struct gendisk *disk);			\
static int name(struct block_device *bdev, fmode_t mode)	\
{								\
	return name##_body(bdev->bd_disk);			\
}								\
static int name##_body(struct gendisk *disk)
#define UBLK_DISK_RELEASE(name)	static void name(struct gendisk *disk, fmode_t mode)
#endif

/* What a disk can do, in bytes unless named otherwise. 0 means no limit or not supported. */
struct ublk_disk_limits {
	unsigned int	logical_block_bytes;
	unsigned int	physical_block_bytes;
	unsigned int	io_min_bytes;
	unsigned int	io_opt_bytes;
	unsigned int	max_sectors;
	unsigned int	chunk_sectors;
	unsigned long	virt_boundary_mask;
	unsigned long	seg_boundary_mask;
	unsigned int	max_segment_bytes;
	unsigned int	max_segments;
	unsigned int	dma_alignment_mask;
	unsigned int	discard_alignment;
	unsigned int	discard_granularity;
	unsigned int	max_discard_sectors;
	unsigned int	max_discard_segments;
	unsigned int	max_write_zeroes_sectors;
	bool		write_cache;
	bool		fua;
	bool		rotational;
	bool		zoned;		/* then chunk_sectors is the size of a zone */
	unsigned int	max_open_zones;
	unsigned int	max_active_zones;
	unsigned int	max_zone_append_sectors;
	const struct ublk_param_integrity *integrity;	/* NULL for none */
	u8		tuple_bytes;
};

/* A disk with its queue, not yet visible. ERR_PTR on failure; put_disk() gives it back. */
struct gendisk *ublk_alloc_disk(struct blk_mq_tag_set *set, const struct ublk_disk_limits *lim,
				void *queuedata);

#endif
