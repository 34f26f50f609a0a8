/* SPDX-License-Identifier: GPL-2.0 */
/* A disk can describe its protection information, tuples inside of metadata. */
#include <linux/blk-integrity.h>
void probe(struct queue_limits *lim)
{
	lim->max_integrity_segments = 1;
	lim->integrity.metadata_size = 16;
	lim->integrity.pi_tuple_size = 8;
	lim->integrity.flags = BLK_INTEGRITY_DEVICE_CAPABLE | BLK_INTEGRITY_REF_TAG;
}
