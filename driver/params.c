// SPDX-License-Identifier: GPL-2.0
/* What a server may say about its disk, and what the block layer is told of it. */
#include <linux/blkdev.h>
#include <linux/log2.h>
#include <linux/sizes.h>

#include "ublk_drv.h"

/* Larger sizes of physical blocks and of optimal I/O are nonsense, and would overflow. */
#define UBLK_MAX_SHIFT		28
#define UBLK_PI_TUPLE_BYTES		8
#define UBLK_PI_WIDE_TUPLE_BYTES	16
/* The block layer counts the bytes of an interval in 16 bits. */
#define UBLK_PI_MAX_INTERVAL_EXP	15
/* What protects one I/O is one allocation of the block layer, of at most BIO_MAX_VECS pages. */
#define UBLK_PI_MAX_IO_BYTES		(BIO_MAX_VECS * SZ_4K)
/* Sectors beyond this make byte offsets negative. */
#define UBLK_MAX_DEV_SECTORS	((u64)LLONG_MAX >> SECTOR_SHIFT)

int ublk_params_check_size(const struct ublk_param_basic *p, u64 sectors)
{
	u32 block_sectors = 1U << (p->logical_bs_shift - SECTOR_SHIFT);

	return sectors > UBLK_MAX_DEV_SECTORS || sectors % block_sectors ? -EINVAL : 0;
}

static int ublk_check_basic(const struct ublk_device *dev, const struct ublk_param_basic *p)
{
	if (p->logical_bs_shift < SECTOR_SHIFT || p->logical_bs_shift > PAGE_SHIFT)
		return -EINVAL;
	if (p->physical_bs_shift > UBLK_MAX_SHIFT || p->io_min_shift > UBLK_MAX_SHIFT ||
	    p->io_opt_shift > UBLK_MAX_SHIFT)
		return -EINVAL;
	if (p->logical_bs_shift > p->physical_bs_shift)
		return -EINVAL;
	if (p->max_sectors < PAGE_SECTORS ||
	    p->max_sectors > dev->info.max_io_buf_bytes >> SECTOR_SHIFT)
		return -EINVAL;
	/* A boundary inside of a block leaves nothing to split off: block layers of 6.1 crash then. */
	if (p->chunk_sectors % (1U << (p->logical_bs_shift - SECTOR_SHIFT)))
		return -EINVAL;
	if (p->virt_boundary_mask & (p->virt_boundary_mask + 1))
		return -EINVAL;
	return ublk_params_check_size(p, p->dev_sectors);
}

static int ublk_check_discard(const struct ublk_param_discard *p)
{
	if (p->max_discard_sectors && p->max_discard_segments != 1)
		return -EINVAL;
	if (!p->discard_granularity)
		return -EINVAL;
	return 0;
}

static int ublk_check_dma(const struct ublk_param_dma_align *p)
{
	return p->alignment < PAGE_SIZE && is_power_of_2(p->alignment + 1) ? 0 : -EINVAL;
}

static int ublk_check_segment(const struct ublk_param_segment *p)
{
	u64 boundary = p->seg_boundary_mask + 1;

	/* All ones means no boundary. */
	if (boundary && (boundary < UBLK_MIN_SEGMENT_SIZE || !is_power_of_2(boundary)))
		return -EINVAL;
	if (p->max_segment_size < UBLK_MIN_SEGMENT_SIZE || !p->max_segments)
		return -EINVAL;
	return 0;
}

/* Bytes of protection information by kind of checksum; -EINVAL for kinds that there are not. */
static int ublk_tuple_bytes(u8 csum_type)
{
	switch (csum_type) {
	case UBLK_PI_CSUM_NONE:
		return 0;
	case UBLK_PI_CSUM_IP:
	case UBLK_PI_CSUM_CRC16:
		return UBLK_PI_TUPLE_BYTES;
	case UBLK_PI_CSUM_CRC64:
		return UBLK_PI_WIDE_TUPLE_BYTES;
	default:
		return -EINVAL;
	}
}

static int ublk_check_integrity(const struct ublk_device *dev, const struct ublk_params *params)
{
	const struct ublk_param_integrity *p = &params->integrity;
	int bytes = ublk_tuple_bytes(p->csum_type);

	if (!(dev->flags_granted & UBLK_F_INTEGRITY) || bytes < 0 || !p->metadata_size)
		return -EINVAL;
	if (p->flags & ~(UBLK_PI_CAP_INTEGRITY | UBLK_PI_CAP_REFTAG))
		return -EINVAL;
	if (p->csum_type == UBLK_PI_CSUM_NONE && p->flags & UBLK_PI_CAP_REFTAG)
		return -EINVAL;
	if (p->pi_offset + bytes > p->metadata_size)
		return -EINVAL;
	if (p->interval_exp < SECTOR_SHIFT || p->interval_exp > UBLK_PI_MAX_INTERVAL_EXP ||
	    p->interval_exp > params->basic.logical_bs_shift)
		return -EINVAL;
	return 0;
}

int ublk_params_check(const struct ublk_device *dev, const struct ublk_params *p)
{
	int err;

	if (!(p->types & UBLK_PARAM_TYPE_BASIC) || p->types & UBLK_PARAM_TYPE_DEVT)
		return -EINVAL;
	err = ublk_check_basic(dev, &p->basic);
	if (!err && p->types & UBLK_PARAM_TYPE_DISCARD)
		err = ublk_check_discard(&p->discard);
	if (!err && dev->flags_granted & UBLK_F_ZONED)
		err = ublk_zones_check(p);
	else if (!err && p->types & UBLK_PARAM_TYPE_ZONED)
		err = -EINVAL;
	if (!err && p->types & UBLK_PARAM_TYPE_DMA_ALIGN)
		err = ublk_check_dma(&p->dma);
	if (!err && p->types & UBLK_PARAM_TYPE_SEGMENT)
		err = ublk_check_segment(&p->seg);
	if (!err && p->types & UBLK_PARAM_TYPE_INTEGRITY)
		err = ublk_check_integrity(dev, p);
	return err;
}

/* Shifts of 0 stand for "not said". */
static unsigned int ublk_shift_to_bytes(u8 shift)
{
	return shift < SECTOR_SHIFT ? 0 : 1U << shift;
}

static void ublk_integrity_limits(const struct ublk_param_integrity *p, struct ublk_disk_limits *lim)
{
	u32 intervals = UBLK_PI_MAX_IO_BYTES / p->metadata_size;

	lim->integrity = p;
	lim->tuple_bytes = ublk_tuple_bytes(p->csum_type);
	lim->max_sectors = min(lim->max_sectors, intervals << (p->interval_exp - SECTOR_SHIFT));
	/* A tuple is made of, and checked against, memory in one piece. */
	if (p->csum_type != UBLK_PI_CSUM_NONE)
		lim->dma_alignment_mask |= (1U << p->interval_exp) - 1;
}

/* Of checked parameters. */
void ublk_params_to_limits(const struct ublk_params *p, struct ublk_disk_limits *lim)
{
	const struct ublk_param_basic *basic = &p->basic;

	*lim = (struct ublk_disk_limits) {
		.logical_block_bytes	= 1U << basic->logical_bs_shift,
		.physical_block_bytes	= 1U << basic->physical_bs_shift,
		.io_min_bytes		= ublk_shift_to_bytes(basic->io_min_shift),
		.io_opt_bytes		= ublk_shift_to_bytes(basic->io_opt_shift),
		.max_sectors		= basic->max_sectors,
		.chunk_sectors		= basic->chunk_sectors,
		.virt_boundary_mask	= basic->virt_boundary_mask,
		/* Data is copied page by page, so no request has to be split for its pages. */
		.max_segments		= USHRT_MAX,
		.max_segment_bytes	= UINT_MAX,
		.write_cache		= basic->attrs & UBLK_ATTR_VOLATILE_CACHE,
		.fua			= basic->attrs & UBLK_ATTR_FUA,
		.rotational		= basic->attrs & UBLK_ATTR_ROTATIONAL,
	};

	if (p->types & UBLK_PARAM_TYPE_DISCARD) {
		lim->discard_alignment = p->discard.discard_alignment;
		lim->discard_granularity = p->discard.discard_granularity;
		lim->max_discard_sectors = p->discard.max_discard_sectors;
		lim->max_discard_segments = p->discard.max_discard_segments;
		lim->max_write_zeroes_sectors = p->discard.max_write_zeroes_sectors;
	}
	if (p->types & UBLK_PARAM_TYPE_ZONED) {
		lim->zoned = true;
		lim->max_open_zones = p->zoned.max_open_zones;
		lim->max_active_zones = p->zoned.max_active_zones;
		lim->max_zone_append_sectors = p->zoned.max_zone_append_sectors;
	}
	if (p->types & UBLK_PARAM_TYPE_DMA_ALIGN)
		lim->dma_alignment_mask = p->dma.alignment;
	if (p->types & UBLK_PARAM_TYPE_SEGMENT) {
		lim->seg_boundary_mask = p->seg.seg_boundary_mask;
		lim->max_segment_bytes = p->seg.max_segment_size;
		lim->max_segments = p->seg.max_segments;
	}
	if (p->types & UBLK_PARAM_TYPE_INTEGRITY)
		ublk_integrity_limits(&p->integrity, lim);
	/* A block in two pieces would have to be split: the block layer has to refuse such memory. */
	if (lim->max_segments == 1 || lim->virt_boundary_mask >= PAGE_SIZE)
		lim->dma_alignment_mask |= lim->logical_block_bytes - 1;
}
