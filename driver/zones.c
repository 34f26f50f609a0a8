// SPDX-License-Identifier: GPL-2.0
/*
 * UBLK_F_ZONED: the zones of a disk are asked from its server. A report is a request of its own,
 * whose data is an array of struct blk_zone.
 */
#include <linux/blkdev.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/overflow.h>

#include "compat/zones.h"
#include "ublk_drv.h"

#define UBLK_REPORT_MAX_ZONES	1024U

/* A chunk is a zone. */
int ublk_zones_check(const struct ublk_params *p)
{
	u64 nr_zones;

	if (!(p->types & UBLK_PARAM_TYPE_ZONED) || !p->zoned.max_zone_append_sectors)
		return -EINVAL;
	if (!p->basic.chunk_sectors || !is_power_of_2(p->basic.chunk_sectors))
		return -EINVAL;
	nr_zones = p->basic.dev_sectors >> ilog2(p->basic.chunk_sectors);
	if (p->zoned.max_open_zones > nr_zones || p->zoned.max_active_zones > nr_zones)
		return -EINVAL;
	return 0;
}

/* Have the server fill @zones, from the one at @sector on. Returns 0 or negative errno. */
static int ublk_zones_ask(struct gendisk *disk, sector_t sector, struct blk_zone *zones,
			  unsigned int nr)
{
	struct request *req;
	blk_status_t status;
	int err;

	req = blk_mq_alloc_request(disk->queue, REQ_OP_DRV_IN, 0);
	if (IS_ERR(req))
		return PTR_ERR(req);
	req->__sector = sector;
	ublk_rq(req)->nr_zones = nr;
	err = ublk_rq_map_kern(req, zones, array_size(nr, sizeof(*zones)));
	if (!err) {
		status = blk_execute_rq(req, false);
		err = blk_status_to_errno(status);
	}
	blk_mq_free_request(req);
	return err;
}

/* Is it the zone that lies there? Not all kernels look, and they count zones by their size. */
static bool ublk_zone_is_at(struct gendisk *disk, const struct blk_zone *zone, sector_t sector)
{
	u64 len = min_t(u64, disk->queue->limits.chunk_sectors, get_capacity(disk) - sector);

	return zone->start == sector && zone->len == len;
}

/*
 * Of one answer, from the zone at @sector, the one of number @first in the report, on. Returns how
 * many zones were there, or negative errno.
 */
static int ublk_zones_tell(struct gendisk *disk, sector_t sector, struct blk_zone *zones,
			   unsigned int nr, unsigned int first, ublk_zone_args *args)
{
	unsigned int chunk = disk->queue->limits.chunk_sectors;
	unsigned int i;
	int err;

	/* A server that has no more leaves the rest as it was: empty. */
	for (i = 0; i < nr && zones[i].len; i++) {
		if (!ublk_zone_is_at(disk, &zones[i], sector + (sector_t)i * chunk))
			return -EIO;
		err = ublk_zone_report(disk, &zones[i], first + i, args);
		if (err)
			return err;
	}
	return i;
}

UBLK_REPORT_ZONES(ublk_zones_report)
{
	unsigned int chunk = disk->queue->limits.chunk_sectors;
	sector_t end = get_capacity(disk);
	unsigned int done = 0, room, n;
	struct blk_zone *zones;
	int ret = 0;

	/* Any sector stands for the zone that it is in. */
	sector = round_down(sector, chunk);
	room = min3(nr_zones, UBLK_REPORT_MAX_ZONES,
		    (unsigned int)(queue_max_bytes(disk->queue) / sizeof(*zones)));
	zones = kvcalloc(room, sizeof(*zones), GFP_KERNEL);
	if (!zones)
		return -ENOMEM;
	while (done < nr_zones && sector < end) {
		n = min_t(u64, min(nr_zones - done, room), DIV_ROUND_UP_ULL(end - sector, chunk));
		memset(zones, 0, n * sizeof(*zones));
		ret = ublk_zones_ask(disk, sector, zones, n);
		if (!ret)
			ret = ublk_zones_tell(disk, sector, zones, n, done, args);
		if (ret <= 0)
			break;
		done += ret;
		sector += (sector_t)ret * chunk;
	}
	kvfree(zones);
	return ret < 0 ? ret : done;
}
