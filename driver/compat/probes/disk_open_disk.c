/* SPDX-License-Identifier: GPL-2.0 */
/* A disk is opened as a disk, not as one of its block devices. */
#include <linux/blkdev.h>
static int disk_open(struct gendisk *disk, blk_mode_t mode) { return 0; }
const struct block_device_operations probe = { .open = disk_open };
