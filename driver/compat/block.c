// SPDX-License-Identifier: GPL-2.0
#include "block.h"
#include "integrity.h"

#ifdef UBLK_HAVE_DISK_LIMITS

struct gendisk *ublk_alloc_disk(struct blk_mq_tag_set *set, const struct ublk_disk_limits *lim,
				void *queuedata)
{
	struct queue_limits q = {
		.logical_block_size	= lim->logical_block_bytes,
		.physical_block_size	= lim->physical_block_bytes,
		.io_min			= lim->io_min_bytes,
		.io_opt			= lim->io_opt_bytes,
		.max_hw_sectors		= lim->max_sectors,
		.chunk_sectors		= lim->chunk_sectors,
		.virt_boundary_mask	= lim->virt_boundary_mask,
		.seg_boundary_mask	= lim->seg_boundary_mask,
		.max_segment_size	= lim->max_segment_bytes,
		.max_segments		= lim->max_segments,
		.dma_alignment		= lim->dma_alignment_mask,
		.discard_alignment	= lim->discard_alignment,
		.discard_granularity	= lim->discard_granularity,
		.max_hw_discard_sectors	= lim->max_discard_sectors,
		.max_discard_segments	= lim->max_discard_segments,
		.max_write_zeroes_sectors = lim->max_write_zeroes_sectors,
	};

	if (lim->write_cache)
		q.features |= BLK_FEAT_WRITE_CACHE;
	if (lim->fua)
		q.features |= BLK_FEAT_FUA;
	if (lim->rotational)
		q.features |= BLK_FEAT_ROTATIONAL;

	if (lim->zoned) {
		q.features |= BLK_FEAT_ZONED;
		q.max_open_zones = lim->max_open_zones;
		q.max_active_zones = lim->max_active_zones;
#ifdef UBLK_HAVE_HW_ZONE_APPEND
		q.max_hw_zone_append_sectors = lim->max_zone_append_sectors;
#else
		q.max_zone_append_sectors = lim->max_zone_append_sectors;
#endif
	}
	if (lim->integrity)
		ublk_integrity_to_limits(lim->integrity, lim->tuple_bytes, &q);

	return blk_mq_alloc_disk(set, &q, queuedata);
}

#else

struct gendisk *ublk_alloc_disk(struct blk_mq_tag_set *set, const struct ublk_disk_limits *lim,
				void *queuedata)
{
	struct gendisk *disk = blk_mq_alloc_disk(set, queuedata);
	struct request_queue *q;

	if (IS_ERR(disk))
		return disk;
	q = disk->queue;

	blk_queue_logical_block_size(q, lim->logical_block_bytes);
	blk_queue_physical_block_size(q, lim->physical_block_bytes);
	blk_queue_io_min(q, lim->io_min_bytes);
	blk_queue_io_opt(q, lim->io_opt_bytes);
	blk_queue_max_hw_sectors(q, lim->max_sectors);
	if (lim->chunk_sectors)
		blk_queue_chunk_sectors(q, lim->chunk_sectors);
	blk_queue_max_segments(q, lim->max_segments);
	/* A virtual boundary replaces the segment size, so the two cannot be set together. */
	if (lim->virt_boundary_mask)
		blk_queue_virt_boundary(q, lim->virt_boundary_mask);
	else
		blk_queue_max_segment_size(q, lim->max_segment_bytes);
	if (lim->seg_boundary_mask)
		blk_queue_segment_boundary(q, lim->seg_boundary_mask);
	if (lim->dma_alignment_mask)
		blk_queue_dma_alignment(q, lim->dma_alignment_mask);

	q->limits.discard_alignment = lim->discard_alignment;
	q->limits.discard_granularity = lim->discard_granularity;
	blk_queue_max_discard_sectors(q, lim->max_discard_sectors);
	if (lim->max_discard_segments)
		blk_queue_max_discard_segments(q, lim->max_discard_segments);
	blk_queue_max_write_zeroes_sectors(q, lim->max_write_zeroes_sectors);

	blk_queue_write_cache(q, lim->write_cache, lim->fua);
	if (lim->rotational)
		blk_queue_flag_clear(QUEUE_FLAG_NONROT, q);
	else
		blk_queue_flag_set(QUEUE_FLAG_NONROT, q);

	if (IS_ENABLED(CONFIG_BLK_DEV_ZONED) && lim->zoned) {
		disk_set_zoned(disk, BLK_ZONED_HM);
		blk_queue_flag_set(QUEUE_FLAG_ZONE_RESETALL, q);
		blk_queue_required_elevator_features(q, ELEVATOR_F_ZBD_SEQ_WRITE);
		blk_queue_max_zone_append_sectors(q, lim->max_zone_append_sectors);
		disk_set_max_open_zones(disk, lim->max_open_zones);
		disk_set_max_active_zones(disk, lim->max_active_zones);
	}
	if (lim->integrity && ublk_integrity_register(disk, lim->integrity)) {
		put_disk(disk);
		return ERR_PTR(-ENOMEM);
	}
	return disk;
}

#endif
