/* SPDX-License-Identifier: GPL-2.0 */
/* A disk can describe its protection information, all of which is called the tuple. */
#include <linux/blk-integrity.h>
void probe(struct queue_limits *lim)
{
	lim->max_integrity_segments = 1;
	lim->integrity.tuple_size = 16;
	lim->integrity.pi_offset = 8;
	lim->integrity.flags = BLK_INTEGRITY_DEVICE_CAPABLE | BLK_INTEGRITY_REF_TAG;
}
