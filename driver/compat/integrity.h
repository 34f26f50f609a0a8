/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Protection information of requests. A disk describes its own by its limits, or before 6.11 by a
 * profile (integrity.c). UBLK_F_PROTECTION is UBLK_F_INTEGRITY where it can, else 0, and nothing here
 * is ever asked for.
 */
#ifndef UBLK_COMPAT_INTEGRITY_H
#define UBLK_COMPAT_INTEGRITY_H

#include <linux/blk-integrity.h>
#include <linux/blk-mq.h>

#include "../uapi/ublk_cmd.h"
#include "config.h"

#if IS_ENABLED(CONFIG_BLK_DEV_INTEGRITY) && \
	(defined(UBLK_HAVE_INTEGRITY_METADATA) || defined(UBLK_HAVE_INTEGRITY_TUPLE))
#define UBLK_INTEGRITY_BY_LIMITS
#define UBLK_F_PROTECTION	UBLK_F_INTEGRITY
#elif IS_ENABLED(CONFIG_BLK_DEV_INTEGRITY_T10) && defined(UBLK_HAVE_INTEGRITY_PROFILE)
#define UBLK_INTEGRITY_BY_PROFILE
#define UBLK_F_PROTECTION	UBLK_F_INTEGRITY
#else
#define UBLK_F_PROTECTION	0ULL
#endif

/* Called for each piece of memory, in order. False ends the walk. */
typedef bool (*ublk_integrity_fn)(const struct bio_vec *bv, void *data);

/* Bytes of a request's protection information. */
static inline unsigned int ublk_integrity_bytes(struct request *req)
{
	if (!blk_integrity_rq(req))
		return 0;
#if defined(UBLK_INTEGRITY_BY_LIMITS)
	return bio_integrity_bytes(&req->q->limits.integrity, blk_rq_sectors(req));
#elif defined(UBLK_INTEGRITY_BY_PROFILE)
	return bio_integrity_bytes(&req->q->integrity, blk_rq_sectors(req));
#else
	return 0;
#endif
}

static inline void ublk_integrity_walk(struct request *req, ublk_integrity_fn fn, void *data)
{
#if IS_ENABLED(CONFIG_BLK_DEV_INTEGRITY)
	struct bio *bio = req->bio;
	struct bvec_iter iter;
	struct bio_vec bv;

	bio_for_each_integrity_vec(bv, bio, iter)
		if (!fn(&bv, data))
			return;
#endif
}

#ifdef UBLK_INTEGRITY_BY_LIMITS
static inline void ublk_integrity_to_limits(const struct ublk_param_integrity *p, u8 tuple_bytes,
					    struct queue_limits *q)
{
	static const enum blk_integrity_checksum checksums[] = {
		[UBLK_PI_CSUM_NONE]	= BLK_INTEGRITY_CSUM_NONE,
		[UBLK_PI_CSUM_IP]	= BLK_INTEGRITY_CSUM_IP,
		[UBLK_PI_CSUM_CRC16]	= BLK_INTEGRITY_CSUM_CRC,
		[UBLK_PI_CSUM_CRC64]	= BLK_INTEGRITY_CSUM_CRC64,
	};

	q->max_integrity_segments = p->max_integrity_segments ?: USHRT_MAX;
	q->integrity = (struct blk_integrity) {
		.csum_type	= checksums[p->csum_type],
#ifdef UBLK_HAVE_INTEGRITY_METADATA
		.metadata_size	= p->metadata_size,
		.pi_tuple_size	= tuple_bytes,
#else
		.tuple_size	= p->metadata_size,
#endif
		.pi_offset	= p->pi_offset,
		.interval_exp	= p->interval_exp,
		.tag_size	= p->tag_size,
	};
	if (p->flags & UBLK_PI_CAP_INTEGRITY)
		q->integrity.flags |= BLK_INTEGRITY_DEVICE_CAPABLE;
	if (p->flags & UBLK_PI_CAP_REFTAG)
		q->integrity.flags |= BLK_INTEGRITY_REF_TAG;
}
#else
static inline void ublk_integrity_to_limits(const struct ublk_param_integrity *p, u8 tuple_bytes,
					    struct queue_limits *q)
{
}
#endif

#ifdef UBLK_INTEGRITY_BY_PROFILE
/* Gives a disk that is not yet visible its profile. May sleep; -ENOMEM. */
int ublk_integrity_register(struct gendisk *disk, const struct ublk_param_integrity *p);
/* When there are no disks any more. */
void ublk_integrity_exit(void);
#else
static inline int ublk_integrity_register(struct gendisk *disk,
					  const struct ublk_param_integrity *p)
{
	return 0;
}

static inline void ublk_integrity_exit(void)
{
}
#endif

#endif
