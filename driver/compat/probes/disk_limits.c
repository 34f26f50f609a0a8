/* SPDX-License-Identifier: GPL-2.0 */
/* A disk is allocated together with its limits. */
#include <linux/blk-mq.h>
struct gendisk *probe(struct blk_mq_tag_set *set, struct queue_limits *lim)
{
	lim->features = BLK_FEAT_WRITE_CACHE | BLK_FEAT_FUA | BLK_FEAT_ROTATIONAL;
	return blk_mq_alloc_disk(set, lim, NULL);
}
