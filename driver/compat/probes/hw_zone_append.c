/* SPDX-License-Identifier: GPL-2.0 */
/* The limit of appends that a disk has, apart from the one that its users see. */
#include <linux/blkdev.h>
unsigned int probe(struct queue_limits *lim) { return lim->max_hw_zone_append_sectors; }
