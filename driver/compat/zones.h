/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Zoned disks, the same on every kernel. UBLK_F_ZONES is UBLK_F_ZONED where this kernel knows them,
 * else 0.
 *
 * UBLK_REPORT_ZONES(name) starts the definition of a function (struct gendisk *disk,
 * sector_t sector, unsigned int nr_zones, ublk_zone_args *args) that is the `report_zones` operation
 * of a disk; it tells each zone by ublk_zone_report(). UBLK_ZONES_REPORT_FN(name) declares it.
 */
#ifndef UBLK_COMPAT_ZONES_H
#define UBLK_COMPAT_ZONES_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>

#include "config.h"

#define UBLK_F_ZONES	(IS_ENABLED(CONFIG_BLK_DEV_ZONED) ? UBLK_F_ZONED : 0)

#ifdef UBLK_HAVE_REPORT_ZONES_ARGS
typedef struct blk_report_zones_args ublk_zone_args;
#define UBLK_ZONES_REPORT_FN(name)							\
int name(struct gendisk *disk, sector_t sector, unsigned int nr_zones, ublk_zone_args *args)
#define UBLK_REPORT_ZONES(name)		UBLK_ZONES_REPORT_FN(name)

static inline int ublk_zone_report(struct gendisk *disk, struct blk_zone *zone, unsigned int index,
				   ublk_zone_args *args)
{
	return disk_report_zone(disk, zone, index, args);
}
#else
typedef struct {
	report_zones_cb	callback;
	void		*data;
} ublk_zone_args;

#define UBLK_ZONES_REPORT_FN(name)							\
int name(struct gendisk *disk, sector_t sector, unsigned int nr_zones,			\
	 report_zones_cb callback, void *data)
#define UBLK_REPORT_ZONES(name)								\
static int name##_body(struct gendisk *disk, sector_t sector, unsigned int nr_zones,	\
		       ublk_zone_args *args);						\
UBLK_ZONES_REPORT_FN(name)								\
{											\
	ublk_zone_args args = { callback, data };					\
											\
	return name##_body(disk, sector, nr_zones, &args);				\
}											\
static int name##_body(struct gendisk *disk, sector_t sector, unsigned int nr_zones,	\
		       ublk_zone_args *args)

static inline int ublk_zone_report(struct gendisk *disk, struct blk_zone *zone, unsigned int index,
				   ublk_zone_args *args)
{
	return args->callback(zone, index, args->data);
}
#endif

static inline int ublk_revalidate_zones(struct gendisk *disk)
{
#if !IS_ENABLED(CONFIG_BLK_DEV_ZONED)
	return -EOPNOTSUPP;
#elif defined(UBLK_HAVE_REVALIDATE_ZONES_UPDATE)
	return blk_revalidate_disk_zones(disk, NULL);
#else
	return blk_revalidate_disk_zones(disk);
#endif
}

static inline int ublk_rq_map_kern(struct request *req, void *data, unsigned int bytes)
{
#ifdef UBLK_HAVE_MAP_KERN_QUEUE
	return blk_rq_map_kern(req->q, req, data, bytes, GFP_KERNEL);
#else
	return blk_rq_map_kern(req, data, bytes, GFP_KERNEL);
#endif
}

#endif
