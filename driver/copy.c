// SPDX-License-Identifier: GPL-2.0
/*
 * Data between the pages of a request and the server's buffer, in the server's task.
 *
 * Pages of a request can be any kernel memory, slab objects too, so the checks of copy_to_user()
 * on its kernel side would refuse some. The iterator functions check only the user side.
 */
#include <linux/blk-mq.h>
#include <linux/highmem.h>
#include <linux/uio.h>

#include "ublk_drv.h"

/*
 * Copy one piece; returns the bytes done, less than its length when user memory faults. This and
 * ublk_copy_all() are inlined, since every plain I/O comes through here.
 */
static __always_inline size_t ublk_copy_bvec(const struct bio_vec *bv, struct iov_iter *iter,
					     bool to_server)
{
	size_t done = 0;

	while (done < bv->bv_len) {
		size_t off = bv->bv_offset + done;
		/* Consecutive pages have consecutive addresses unless they must be mapped. */
		size_t len = IS_ENABLED(CONFIG_HIGHMEM) ?
			     min_t(size_t, bv->bv_len - done, PAGE_SIZE - offset_in_page(off)) :
			     bv->bv_len - done;
		struct page *page = bv->bv_page;
		size_t n;
		u8 *mem;

		if (IS_ENABLED(CONFIG_HIGHMEM)) {
			page += off >> PAGE_SHIFT;
			off = offset_in_page(off);
		}
		mem = kmap_local_page(page);
		if (to_server)
			n = _copy_to_iter(mem + off, len, iter);
		else
			n = _copy_from_iter(mem + off, len, iter);
		kunmap_local(mem);
		done += n;
		if (n < len)
			break;
	}
	return done;
}

/* How far a copy has come. */
struct ublk_copy {
	struct iov_iter	*iter;
	unsigned int	skip;	/* bytes to leave out yet */
	unsigned int	left;
	bool		to_server;
};

/* Copy what is wanted of one piece of memory. False if that was the last. */
static bool ublk_copy_piece(const struct bio_vec *bv, void *data)
{
	struct ublk_copy *c = data;
	/* Not in bv itself: its length is what the caller's loop goes on by. */
	struct bio_vec part = *bv;
	unsigned int n;

	if (unlikely(c->skip >= bv->bv_len)) {
		c->skip -= bv->bv_len;
		return true;
	}
	part.bv_offset += c->skip;
	part.bv_len = min(bv->bv_len - c->skip, c->left);
	c->skip = 0;
	n = ublk_copy_bvec(&part, c->iter, c->to_server);
	if (!c->to_server)
		flush_dcache_page(bv->bv_page);
	c->left -= n;
	return n == part.bv_len && c->left;
}

/* Copy @bytes of a request's data, from @offset on; returns how many were. */
unsigned int ublk_copy(struct request *req, struct iov_iter *iter, unsigned int offset,
		       unsigned int bytes, bool to_server)
{
	struct ublk_copy c = { iter, offset, bytes, to_server };
	struct req_iterator pos;
	struct bio_vec bv;

	rq_for_each_bvec(bv, req, pos)
		if (!ublk_copy_piece(&bv, &c))
			break;
	return bytes - c.left;
}

/* As above, of its protection information. */
unsigned int ublk_copy_integrity(struct request *req, struct iov_iter *iter, unsigned int offset,
				 unsigned int bytes, bool to_server)
{
	struct ublk_copy c = { iter, offset, bytes, to_server };

	ublk_integrity_walk(req, ublk_copy_piece, &c);
	return bytes - c.left;
}

/* Copy a request's data, as far as @iter goes; returns how many bytes were. For every plain I/O. */
static __always_inline unsigned int ublk_copy_all(struct request *req, struct iov_iter *iter,
						  bool to_server)
{
	struct req_iterator pos;
	unsigned int done = 0;
	struct bio_vec bv;

	rq_for_each_bvec(bv, req, pos) {
		unsigned int n = ublk_copy_bvec(&bv, iter, to_server);

		if (!to_server)
			flush_dcache_page(bv.bv_page);
		done += n;
		if (n != bv.bv_len)
			break;
	}
	return done;
}

/* The data of a write into the server's memory at @addr. Returns the bytes copied. */
unsigned int ublk_copy_to_server(struct request *req, u64 addr)
{
	unsigned int bytes = blk_rq_bytes(req);
	struct iov_iter iter;

	iov_iter_ubuf(&iter, ITER_DEST, u64_to_user_ptr(addr), bytes);
	return ublk_copy_all(req, &iter, true);
}

/* @bytes for a read out of the server's memory at @addr. Returns the bytes copied. */
unsigned int ublk_copy_from_server(struct request *req, u64 addr, unsigned int bytes)
{
	struct iov_iter iter;

	iov_iter_ubuf(&iter, ITER_SOURCE, u64_to_user_ptr(addr), bytes);
	return ublk_copy_all(req, &iter, false);
}
