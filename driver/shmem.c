// SPDX-License-Identifier: GPL-2.0
/*
 * UBLK_F_SHMEM_ZC: memory that the server shares with the users of its disk. A request whose pages
 * lie in such memory one after the other is not copied: its descriptor says where they are.
 *
 * A table sorted by page frame tells which memory is registered. Dispatch reads it under RCU;
 * REG_BUF and UNREG_BUF replace it. A buffer stays pinned, and its index taken, until it is out of
 * the table and no request that was given out with it is left. What a server registered goes with
 * the server: the next one has other memory.
 */
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/uaccess.h>

#include "ublk_drv.h"

#define UBLK_SHMEM_MAX_BYTES	(4ULL << 30)
#define UBLK_SHMEM_MAX_BUFFERS	(UBLK_SHMEM_ZC_IDX_MASK + 1)

struct ublk_shmem_buf {
	refcount_t		refs;	/* the table's, and one for each request */
	u32			index;
	u32			flags;	/* UBLK_SHMEM_BUF_* */
	unsigned long		nr_pages;
	struct page		**pages;
};

/* Pages of a buffer that lie one after the other in memory as well. */
struct ublk_shmem_range {
	unsigned long		pfn;
	unsigned long		nr_pages;
	u64			offset;		/* in the buffer, bytes */
	struct ublk_shmem_buf	*buf;
};

struct ublk_shmem_table {
	size_t			nr;
	struct ublk_shmem_range	ranges[];	/* by pfn */
};

static void ublk_shmem_put(struct ublk_device *dev, struct ublk_shmem_buf *buf)
{
	if (!refcount_dec_and_test(&buf->refs)) {
		/* UNREG_BUF waits for the requests. */
		if (wq_has_sleeper(&dev->wait))
			wake_up_all(&dev->wait);
		return;
	}
	unpin_user_pages(buf->pages, buf->nr_pages);
	ida_free(&dev->shmem_ids, buf->index);
	kvfree(buf->pages);
	kfree(buf);
}

static const struct ublk_shmem_range *ublk_shmem_find(const struct ublk_shmem_table *table,
						      unsigned long pfn)
{
	size_t low = 0, high = table->nr;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct ublk_shmem_range *range = &table->ranges[middle];

		if (pfn < range->pfn)
			high = middle;
		else if (pfn - range->pfn >= range->nr_pages)
			low = middle + 1;
		else
			return range;
	}
	return NULL;
}

/* Where the whole request lies in one buffer, in order. NULL if it does not. */
static struct ublk_shmem_buf *ublk_shmem_match(const struct ublk_shmem_table *table,
					       struct request *req, u64 *start)
{
	struct ublk_shmem_buf *buf = NULL;
	struct req_iterator pos;
	struct bio_vec bv;
	u64 next = 0;

	rq_for_each_bvec(bv, req, pos) {
		unsigned long pfn = page_to_pfn(bv.bv_page) + (bv.bv_offset >> PAGE_SHIFT);
		const struct ublk_shmem_range *range = ublk_shmem_find(table, pfn);
		u64 in_range, at;

		if (!range)
			return NULL;
		in_range = ((u64)(pfn - range->pfn) << PAGE_SHIFT) + offset_in_page(bv.bv_offset);
		if (in_range + bv.bv_len > (u64)range->nr_pages << PAGE_SHIFT)
			return NULL;
		at = range->offset + in_range;
		if (!buf) {
			buf = range->buf;
			*start = at;
		} else if (range->buf != buf || at != next) {
			return NULL;
		}
		next = at + bv.bv_len;
	}
	if (buf && req_op(req) == REQ_OP_READ && buf->flags & UBLK_SHMEM_BUF_READ_ONLY)
		return NULL;
	return buf;
}

/*
 * The descriptor's address of a request that needs no copy; UBLK_NO_SHMEM if it does. The request
 * refers to the buffer until ublk_shmem_done().
 */
u64 ublk_shmem_take(struct ublk_device *dev, struct request *req)
{
	struct ublk_shmem_buf *buf = NULL;
	struct ublk_shmem_table *table;
	u64 start;

	if (req_op(req) != REQ_OP_READ && req_op(req) != REQ_OP_WRITE)
		return UBLK_NO_SHMEM;
	rcu_read_lock();
	table = rcu_dereference(dev->shmem);
	if (table)
		buf = ublk_shmem_match(table, req, &start);
	if (buf)
		refcount_inc(&buf->refs);
	rcu_read_unlock();
	ublk_rq(req)->shmem = buf;
	return buf ? ublk_shmem_zc_addr(buf->index, start) : UBLK_NO_SHMEM;
}

/* The server is done with the request. */
void ublk_shmem_done(struct ublk_device *dev, struct request *req)
{
	struct ublk_shmem_buf *buf = ublk_rq(req)->shmem;

	ublk_rq(req)->shmem = NULL;
	if (buf)
		ublk_shmem_put(dev, buf);
}

static int ublk_shmem_compare(const void *a, const void *b)
{
	const struct ublk_shmem_range *left = a, *right = b;

	return left->pfn < right->pfn ? -1 : left->pfn > right->pfn;
}

static struct ublk_shmem_table *ublk_shmem_alloc(size_t nr)
{
	struct ublk_shmem_table *table;

	table = kvzalloc(struct_size(table, ranges, nr), GFP_KERNEL);
	return table;
}

/* Add the buffer's pages to the table, which is large enough. */
static void ublk_shmem_add_pages(struct ublk_shmem_table *table, struct ublk_shmem_buf *buf)
{
	struct ublk_shmem_range *range = NULL;
	unsigned long i;

	for (i = 0; i < buf->nr_pages; i++) {
		unsigned long pfn = page_to_pfn(buf->pages[i]);

		if (range && pfn == range->pfn + range->nr_pages) {
			range->nr_pages++;
			continue;
		}
		range = &table->ranges[table->nr++];
		*range = (struct ublk_shmem_range) {
			.pfn = pfn, .nr_pages = 1, .offset = (u64)i << PAGE_SHIFT, .buf = buf,
		};
	}
}

static size_t ublk_shmem_count_runs(const struct ublk_shmem_buf *buf)
{
	unsigned long i;
	size_t runs = 1;

	for (i = 1; i < buf->nr_pages; i++)
		runs += page_to_pfn(buf->pages[i]) != page_to_pfn(buf->pages[i - 1]) + 1;
	return runs;
}

/* A page that is there twice could not be found back. */
static bool ublk_shmem_overlaps(const struct ublk_shmem_table *table)
{
	size_t i;

	for (i = 1; i < table->nr; i++)
		if (table->ranges[i].pfn - table->ranges[i - 1].pfn < table->ranges[i - 1].nr_pages)
			return true;
	return false;
}

static struct ublk_shmem_table *ublk_shmem_current(struct ublk_device *dev)
{
	return rcu_dereference_protected(dev->shmem, lockdep_is_held(&dev->shmem_lock));
}

/* Nobody reads the old table any more when this returns. dev->shmem_lock held. */
static void ublk_shmem_replace(struct ublk_device *dev, struct ublk_shmem_table *table)
{
	struct ublk_shmem_table *old = ublk_shmem_current(dev);

	rcu_assign_pointer(dev->shmem, table);
	synchronize_rcu();
	kvfree(old);
}

static int ublk_shmem_insert(struct ublk_device *dev, struct ublk_shmem_buf *buf)
{
	struct ublk_shmem_table *old = ublk_shmem_current(dev);
	size_t nr = old ? old->nr : 0;
	struct ublk_shmem_table *table = ublk_shmem_alloc(nr + ublk_shmem_count_runs(buf));

	if (!table)
		return -ENOMEM;
	if (old)
		memcpy(table->ranges, old->ranges, nr * sizeof(table->ranges[0]));
	table->nr = nr;
	ublk_shmem_add_pages(table, buf);
	sort(table->ranges, table->nr, sizeof(table->ranges[0]), ublk_shmem_compare, NULL);
	if (ublk_shmem_overlaps(table)) {
		kvfree(table);
		return -EEXIST;
	}
	ublk_shmem_replace(dev, table);
	return 0;
}

static int ublk_shmem_remove(struct ublk_device *dev, const struct ublk_shmem_buf *buf)
{
	struct ublk_shmem_table *old = ublk_shmem_current(dev);
	struct ublk_shmem_table *table = ublk_shmem_alloc(old->nr);
	size_t i;

	if (!table)
		return -ENOMEM;
	for (i = 0; i < old->nr; i++)
		if (old->ranges[i].buf != buf)
			table->ranges[table->nr++] = old->ranges[i];
	ublk_shmem_replace(dev, table);
	return 0;
}

static struct ublk_shmem_buf *ublk_shmem_pin(const struct ublk_shmem_buf_reg *reg)
{
	unsigned int gup = FOLL_LONGTERM;
	struct ublk_shmem_buf *buf;
	long pinned;
	int err;

	buf = kzalloc(sizeof(*buf), GFP_KERNEL);
	if (!buf)
		return ERR_PTR(-ENOMEM);
	refcount_set(&buf->refs, 1);
	buf->flags = reg->flags;
	buf->nr_pages = reg->len >> PAGE_SHIFT;
	buf->pages = kvcalloc(buf->nr_pages, sizeof(*buf->pages), GFP_KERNEL);
	if (!buf->pages) {
		kfree(buf);
		return ERR_PTR(-ENOMEM);
	}
	if (!(reg->flags & UBLK_SHMEM_BUF_READ_ONLY))
		gup |= FOLL_WRITE;
	pinned = pin_user_pages_fast(reg->addr, buf->nr_pages, gup, buf->pages);
	if (pinned == buf->nr_pages)
		return buf;

	err = pinned < 0 ? pinned : -EFAULT;
	if (pinned > 0)
		unpin_user_pages(buf->pages, pinned);
	kvfree(buf->pages);
	kfree(buf);
	return ERR_PTR(err);
}

static int ublk_shmem_check(const struct ublk_shmem_buf_reg *reg)
{
	if (reg->flags & ~UBLK_SHMEM_BUF_READ_ONLY || reg->reserved)
		return -EINVAL;
	if (!reg->len || reg->len > UBLK_SHMEM_MAX_BYTES || !PAGE_ALIGNED(reg->len) ||
	    !PAGE_ALIGNED(reg->addr))
		return -EINVAL;
	return 0;
}

/* REG_BUF: returns the buffer's index. */
int ublk_ctrl_reg_buf(struct ublk_device *dev, struct ublk_ctrl *c)
{
	struct ublk_shmem_buf_reg reg = {};
	struct ublk_shmem_buf *buf;
	int err;

	if (!(dev->flags_granted & UBLK_F_SHMEM_ZC))
		return -EOPNOTSUPP;
	if (copy_from_user(&reg, u64_to_user_ptr(c->cmd.addr), min_t(size_t, c->cmd.len,
								     sizeof(reg))))
		return -EFAULT;
	err = ublk_shmem_check(&reg);
	if (err)
		return err;
	buf = ublk_shmem_pin(&reg);
	if (IS_ERR(buf))
		return PTR_ERR(buf);

	err = ida_alloc_max(&dev->shmem_ids, UBLK_SHMEM_MAX_BUFFERS - 1, GFP_KERNEL);
	if (err < 0) {
		unpin_user_pages(buf->pages, buf->nr_pages);
		kvfree(buf->pages);
		kfree(buf);
		return err;
	}
	buf->index = err;
	mutex_lock(&dev->shmem_lock);
	err = ublk_shmem_insert(dev, buf);
	mutex_unlock(&dev->shmem_lock);
	if (err) {
		ublk_shmem_put(dev, buf);
		return err;
	}
	return buf->index;
}

/* dev->shmem_lock held. */
static struct ublk_shmem_buf *ublk_shmem_by_index(struct ublk_device *dev, u64 index)
{
	struct ublk_shmem_table *table = ublk_shmem_current(dev);
	size_t i;

	for (i = 0; table && i < table->nr; i++)
		if (table->ranges[i].buf->index == index)
			return table->ranges[i].buf;
	return NULL;
}

/* UNREG_BUF: when it returns 0, no request refers to the buffer any more. */
int ublk_ctrl_unreg_buf(struct ublk_device *dev, struct ublk_ctrl *c)
{
	struct ublk_shmem_buf *buf;
	int err = -ENOENT;

	if (!(dev->flags_granted & UBLK_F_SHMEM_ZC))
		return -EOPNOTSUPP;
	mutex_lock(&dev->shmem_lock);
	buf = ublk_shmem_by_index(dev, c->cmd.data[0]);
	if (buf) {
		refcount_inc(&buf->refs);
		err = ublk_shmem_remove(dev, buf);
		if (!err)
			ublk_shmem_put(dev, buf);
	}
	mutex_unlock(&dev->shmem_lock);
	if (!buf)
		return err;
	/* Ours is the last when those of the requests are gone. */
	if (!err && wait_event_interruptible(dev->wait, refcount_read(&buf->refs) == 1))
		err = -EINTR;
	ublk_shmem_put(dev, buf);
	return err;
}

/* The server is gone, or the device: nobody has a request any more. */
void ublk_shmem_clear(struct ublk_device *dev)
{
	struct ublk_shmem_table *table;
	size_t i;

	mutex_lock(&dev->shmem_lock);
	table = ublk_shmem_current(dev);
	if (table) {
		RCU_INIT_POINTER(dev->shmem, NULL);
		synchronize_rcu();
		/* Each buffer begins once. */
		for (i = 0; i < table->nr; i++)
			if (!table->ranges[i].offset)
				ublk_shmem_put(dev, table->ranges[i].buf);
		kvfree(table);
	}
	mutex_unlock(&dev->shmem_lock);
}
