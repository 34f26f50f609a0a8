/* SPDX-License-Identifier: GPL-2.0 */
/* A disk gets its protection information by a profile, which is made of functions. */
#include <linux/blk-integrity.h>
#include <linux/t10-pi.h>
void probe(struct gendisk *disk, bool wide)
{
	struct blk_integrity bi = {
		.profile	= wide ? &ext_pi_type1_crc64 : &t10_pi_type1_crc,
		.tuple_size	= 16,
		.interval_exp	= 9,
	};

	blk_integrity_register(disk, &bi);
}
