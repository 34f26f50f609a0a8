// SPDX-License-Identifier: GPL-2.0
/*
 * Protection information where a disk is given a profile: functions that make it, check it, and turn
 * its reference tags from where the bio was sent into where the disk stores it, and back.
 *
 * The kernel's profiles want the tuple in front of the metadata. Where it is elsewhere, a profile of
 * our own does the same. Its checksum covers the metadata in front of the tuple too, as on kernels
 * that know such tuples. It can't be part of a disk: what is stacked on the disk takes the pointer
 * over. So profiles are shared, and kept until the driver is unloaded.
 */
#include "integrity.h"

#ifdef UBLK_INTEGRITY_BY_PROFILE

#include <linux/crc-t10dif.h>
#include <linux/crc64.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/t10-pi.h>
#include <net/checksum.h>

#define UBLK_PI_APP_BYTES	2	/* the application tag, between guard and reference tag */
#define UBLK_PI_MAX_TAG_BYTES	8

struct ublk_pi_profile {
	struct blk_integrity_profile	ops;
	u8				csum_type;
	bool				has_ref;	/* reference tags are made and checked */
	u8				offset;		/* bytes of metadata in front of the tuple */
	u8				guard_bytes;
	u8				ref_bytes;
	struct list_head		node;
};

static LIST_HEAD(ublk_pi_profiles);
static DEFINE_MUTEX(ublk_pi_lock);	/* the list */

static const struct ublk_pi_profile *ublk_pi_of(struct request_queue *q)
{
	return container_of(q->integrity.profile, struct ublk_pi_profile, ops);
}

static unsigned int ublk_pi_ref_at(const struct ublk_pi_profile *p)
{
	return p->offset + p->guard_bytes + UBLK_PI_APP_BYTES;
}

/* Tags are big endian. */
static void ublk_pi_make_tag(u8 *tag, unsigned int bytes, u64 number)
{
	for (; bytes; number >>= 8)
		tag[--bytes] = number;
}

static bool ublk_pi_is_tag(const u8 *tag, unsigned int bytes, u64 number)
{
	u8 wanted[UBLK_PI_MAX_TAG_BYTES];

	ublk_pi_make_tag(wanted, bytes, number);
	return !memcmp(tag, wanted, bytes);
}

/* Of one interval. */
static u64 ublk_pi_guard(const struct ublk_pi_profile *p, const struct blk_integrity_iter *iter)
{
	const u8 *data = iter->data_buf, *front = iter->prot_buf;
	unsigned int n = iter->interval;

	switch (p->csum_type) {
	case UBLK_PI_CSUM_CRC64:
		return crc64_rocksoft_update(crc64_rocksoft(data, n), front, p->offset);
	case UBLK_PI_CSUM_IP:
		return be16_to_cpu((__force __be16)csum_fold(
			csum_partial(front, p->offset, csum_partial(data, n, 0))));
	default:
		return crc_t10dif_update(crc_t10dif(data, n), front, p->offset);
	}
}

/* Calls @fn for each interval. Its tuple is @iter->prot_buf + p->offset. */
static blk_status_t ublk_pi_each(struct blk_integrity_iter *iter,
				 blk_status_t (*fn)(const struct ublk_pi_profile *p,
						    const struct blk_integrity_iter *iter))
{
	/* That of the disk, or of one that is stacked on it. */
	struct gendisk *disk = container_of(iter->disk_name, struct gendisk, disk_name[0]);
	const struct ublk_pi_profile *p = ublk_pi_of(disk->queue);
	blk_status_t status = BLK_STS_OK;
	unsigned int done;

	for (done = 0; done < iter->data_size && !status; done += iter->interval) {
		status = fn(p, iter);
		iter->data_buf += iter->interval;
		iter->prot_buf += iter->tuple_size;
		iter->seed++;
	}
	return status;
}

static blk_status_t ublk_pi_make(const struct ublk_pi_profile *p,
				 const struct blk_integrity_iter *iter)
{
	u8 *guard = iter->prot_buf + p->offset;
	u8 *app = guard + p->guard_bytes;
	u8 *ref = app + UBLK_PI_APP_BYTES;

	ublk_pi_make_tag(guard, p->guard_bytes, ublk_pi_guard(p, iter));
	ublk_pi_make_tag(app, UBLK_PI_APP_BYTES, 0);
	ublk_pi_make_tag(ref, p->ref_bytes, p->has_ref ? iter->seed : 0);
	return BLK_STS_OK;
}

static blk_status_t ublk_pi_check(const struct ublk_pi_profile *p,
				  const struct blk_integrity_iter *iter)
{
	const u8 *guard = iter->prot_buf + p->offset;
	const u8 *app = guard + p->guard_bytes;
	const u8 *ref = app + UBLK_PI_APP_BYTES;
	const char *wrong = NULL;

	/* Who wrote this wants no check. */
	if (ublk_pi_is_tag(app, UBLK_PI_APP_BYTES, U64_MAX) &&
	    (p->has_ref || ublk_pi_is_tag(ref, p->ref_bytes, U64_MAX)))
		return BLK_STS_OK;

	if (p->has_ref && !ublk_pi_is_tag(ref, p->ref_bytes, iter->seed))
		wrong = "ref";
	else if (!ublk_pi_is_tag(guard, p->guard_bytes, ublk_pi_guard(p, iter)))
		wrong = "guard";
	if (!wrong)
		return BLK_STS_OK;
	pr_err_ratelimited("%s: %s tag error in block %llu\n", iter->disk_name, wrong,
			   (unsigned long long)iter->seed);
	return BLK_STS_PROTECTION;
}

static blk_status_t ublk_pi_generate(struct blk_integrity_iter *iter)
{
	return ublk_pi_each(iter, ublk_pi_make);
}

static blk_status_t ublk_pi_verify(struct blk_integrity_iter *iter)
{
	return ublk_pi_each(iter, ublk_pi_check);
}

/* Copy bytes of metadata, which may lie in several pieces of memory, from @at on. */
static void ublk_pi_copy(const struct bio_vec *pieces, struct bvec_iter at, u8 *bytes,
			 unsigned int n, bool write)
{
	while (n && at.bi_size) {
		struct bio_vec bv = bvec_iter_bvec(pieces, at);
		unsigned int part = min(n, bv.bv_len);
		u8 *p = bvec_kmap_local(&bv);

		if (write)
			memcpy(p, bytes, part);
		else
			memcpy(bytes, p, part);
		kunmap_local(p);
		bytes += part;
		n -= part;
		bvec_iter_advance(pieces, &at, part);
	}
}

/*
 * Turn the reference tags of the first @intervals of a request. Those that are not what they should
 * be stay: the other side is to find that out.
 */
static void ublk_pi_turn(struct request *req, unsigned int intervals, bool to_disk)
{
	const struct blk_integrity *bi = &req->q->integrity;
	const struct ublk_pi_profile *p = ublk_pi_of(req->q);
	u64 there = blk_rq_pos(req) >> (bi->interval_exp - SECTOR_SHIFT);
	struct bio *bio;

	if (!p->has_ref)
		return;
	__rq_for_each_bio(bio, req) {
		struct bio_integrity_payload *bip = bio_integrity(bio);
		unsigned int n = bip->bip_iter.bi_size / bi->tuple_size;
		struct bvec_iter at = bip->bip_iter;
		u64 here = bip_get_seed(bip);

		/* Of a request that was put back, comes again, and may have grown meanwhile. */
		if (to_disk && bip->bip_flags & BIP_MAPPED_INTEGRITY) {
			there += n;
			continue;
		}
		bvec_iter_advance(bip->bip_vec, &at, ublk_pi_ref_at(p));
		for (; n && intervals; n--, intervals--, here++, there++) {
			u8 ref[UBLK_PI_MAX_TAG_BYTES];

			ublk_pi_copy(bip->bip_vec, at, ref, p->ref_bytes, false);
			if (ublk_pi_is_tag(ref, p->ref_bytes, to_disk ? here : there)) {
				ublk_pi_make_tag(ref, p->ref_bytes, to_disk ? there : here);
				ublk_pi_copy(bip->bip_vec, at, ref, p->ref_bytes, true);
			}
			if (n > 1)
				bvec_iter_advance(bip->bip_vec, &at, bi->tuple_size);
		}
		if (to_disk)
			bip->bip_flags |= BIP_MAPPED_INTEGRITY;
	}
}

/* Before a write is given to the server. */
static void ublk_pi_prepare(struct request *req)
{
	ublk_pi_turn(req, UINT_MAX, true);
}

/* When @bytes of a read are there. */
static void ublk_pi_complete(struct request *req, unsigned int bytes)
{
	ublk_pi_turn(req, bytes >> req->q->integrity.interval_exp, false);
}

static const struct blk_integrity_profile *
ublk_pi_kernel_profile(const struct ublk_param_integrity *p)
{
	bool reftag = p->flags & UBLK_PI_CAP_REFTAG;

	switch (p->csum_type) {
	case UBLK_PI_CSUM_IP:
		return reftag ? &t10_pi_type1_ip : &t10_pi_type3_ip;
	case UBLK_PI_CSUM_CRC16:
		return reftag ? &t10_pi_type1_crc : &t10_pi_type3_crc;
	case UBLK_PI_CSUM_CRC64:
		return reftag ? &ext_pi_type1_crc64 : &ext_pi_type3_crc64;
	default:
		return NULL;
	}
}

static struct ublk_pi_profile *ublk_pi_find(const struct ublk_param_integrity *param)
{
	bool has_ref = param->flags & UBLK_PI_CAP_REFTAG;
	struct ublk_pi_profile *p;

	list_for_each_entry(p, &ublk_pi_profiles, node)
		if (p->csum_type == param->csum_type && p->has_ref == has_ref &&
		    p->offset == param->pi_offset)
			return p;
	return NULL;
}

/* NULL when there is no memory. */
static struct ublk_pi_profile *ublk_pi_add(const struct ublk_param_integrity *param,
					   const char *name)
{
	bool wide = param->csum_type == UBLK_PI_CSUM_CRC64;
	struct ublk_pi_profile *p = kzalloc(sizeof(*p), GFP_KERNEL);

	if (!p)
		return NULL;
	p->ops = (struct blk_integrity_profile) {
		.name		= name,
		.generate_fn	= ublk_pi_generate,
		.verify_fn	= ublk_pi_verify,
		.prepare_fn	= ublk_pi_prepare,
		.complete_fn	= ublk_pi_complete,
	};
	p->csum_type = param->csum_type;
	p->has_ref = param->flags & UBLK_PI_CAP_REFTAG;
	p->offset = param->pi_offset;
	p->guard_bytes = wide ? sizeof_field(struct crc64_pi_tuple, guard_tag) :
			 sizeof_field(struct t10_pi_tuple, guard_tag);
	p->ref_bytes = wide ? sizeof_field(struct crc64_pi_tuple, ref_tag) :
		       sizeof_field(struct t10_pi_tuple, ref_tag);
	list_add(&p->node, &ublk_pi_profiles);
	return p;
}

static const struct blk_integrity_profile *
ublk_pi_own_profile(const struct ublk_param_integrity *param, const char *name)
{
	struct ublk_pi_profile *p;

	mutex_lock(&ublk_pi_lock);
	p = ublk_pi_find(param) ?: ublk_pi_add(param, name);
	mutex_unlock(&ublk_pi_lock);
	return p ? &p->ops : NULL;
}

int ublk_integrity_register(struct gendisk *disk, const struct ublk_param_integrity *p)
{
	const struct blk_integrity_profile *profile = ublk_pi_kernel_profile(p);
	struct blk_integrity bi = {
		.tuple_size	= p->metadata_size,
		.interval_exp	= p->interval_exp,
		.tag_size	= p->tag_size,
	};

	/* Nor do the kernel's profiles turn tags of tuples that lie in two pages. */
	if (profile && (p->pi_offset || PAGE_SIZE % p->metadata_size)) {
		profile = ublk_pi_own_profile(p, profile->name);
		if (!profile)
			return -ENOMEM;
	}
	/* NULL stands for metadata that nobody makes or checks. */
	bi.profile = profile;
	if (p->flags & UBLK_PI_CAP_INTEGRITY)
		bi.flags |= BLK_INTEGRITY_DEVICE_CAPABLE;
	if (p->csum_type == UBLK_PI_CSUM_IP)
		bi.flags |= BLK_INTEGRITY_IP_CHECKSUM;
	blk_integrity_register(disk, &bi);
	blk_queue_max_integrity_segments(disk->queue, p->max_integrity_segments ?: USHRT_MAX);
	return 0;
}

void ublk_integrity_exit(void)
{
	struct ublk_pi_profile *p, *next;

	list_for_each_entry_safe(p, next, &ublk_pi_profiles, node)
		kfree(p);
}

#endif
