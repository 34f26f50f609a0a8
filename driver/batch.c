// SPDX-License-Identifier: GPL-2.0
/*
 * UBLK_F_BATCH_IO: a queue is served as a whole, by any tasks. PREP_IO_CMDS arms tags and
 * COMMIT_IO_CMDS ends requests and arms their tags again, many at a time. FETCH_IO_CMDS stays; again
 * and again it is told which tags have a request.
 *
 * A queue has at most one active fetcher, whose task work delivers what waits; the others are idle.
 * Whoever finds requests waiting and no active fetcher makes one active. Only the active fetcher, or
 * who holds batch->lock while there is none, takes requests from the queue.
 */
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "ublk_drv.h"

#define UBLK_BATCH_MAX_TAGS	128
/* How many times a fetcher delivers before it lets its task do something else. */
#define UBLK_BATCH_MAX_ROUNDS	32
#define UBLK_BATCH_F_ALL	(UBLK_BATCH_F_HAS_ZONE_LBA | UBLK_BATCH_F_HAS_BUF_ADDR |	\
				 UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK)

/* A FETCH_IO_CMDS. */
struct ublk_fetcher {
	struct list_head	node;		/* batch->idle */
	struct io_uring_cmd	*cmd;
	u16			buf_group;	/* the ring's provided buffers that it fills */
};

struct ublk_batch_queue {
	spinlock_t		lock;
	struct list_head	idle;
	struct ublk_fetcher	*active;
	struct llist_head	pending;	/* struct ublk_rq::link, newest first; anybody pushes */
	struct llist_node	*taken;		/* out of pending, oldest first; the active one's */
};

struct ublk_batch_queue *ublk_batch_create(void)
{
	struct ublk_batch_queue *batch = kzalloc(sizeof(*batch), GFP_KERNEL);

	if (!batch)
		return NULL;
	spin_lock_init(&batch->lock);
	INIT_LIST_HEAD(&batch->idle);
	init_llist_head(&batch->pending);
	return batch;
}

static bool ublk_batch_has_work(const struct ublk_batch_queue *batch)
{
	return batch->taken || !llist_empty(&batch->pending);
}

/* Make a fetcher active if there is need and none is. batch->lock held; start its task work. */
static struct ublk_fetcher *ublk_batch_activate(struct ublk_batch_queue *batch)
{
	lockdep_assert_held(&batch->lock);
	if (batch->active || !ublk_batch_has_work(batch))
		return NULL;
	batch->active = list_first_entry_or_null(&batch->idle, struct ublk_fetcher, node);
	if (batch->active)
		list_del_init(&batch->active->node);
	return batch->active;
}

static void ublk_fetcher_end(struct ublk_fetcher *f, int res, unsigned int issue_flags)
{
	struct io_uring_cmd *cmd = f->cmd;

	kfree(f);
	ublk_uring_done(cmd, res, issue_flags);
}

/* The oldest request that waits, or NULL. By the active fetcher. */
static struct request *ublk_batch_next(struct ublk_batch_queue *batch)
{
	struct llist_node *link;

	if (!batch->taken)
		batch->taken = llist_reverse_order(llist_del_all(&batch->pending));
	link = batch->taken;
	if (!link)
		return NULL;
	batch->taken = link->next;
	return ublk_rq_from_link(link);
}

static void ublk_batch_put_back(struct ublk_batch_queue *batch, struct request *req)
{
	ublk_rq(req)->link.next = batch->taken;
	batch->taken = &ublk_rq(req)->link;
}

/* Take requests as they are prepared for the server; returns how many tags are in @tags. */
static unsigned int ublk_batch_prepare(struct ublk_queue *q, struct ublk_fetcher *f, u16 *tags,
				       unsigned int room, unsigned int issue_flags)
{
	unsigned int n = 0;
	struct request *req;

	while (n < room && (req = ublk_batch_next(q->batch)))
		if (ublk_prepare(q, &q->ios[req->tag], req, f->cmd, issue_flags))
			tags[n++] = req->tag;
	return n;
}

/* The server was not told of these. One that it committed all the same is not ours any more. */
static void ublk_batch_undo(struct ublk_queue *q, struct ublk_fetcher *f, const u16 *tags,
			    unsigned int n, unsigned int issue_flags)
{
	struct request *req;

	while (n--) {
		struct ublk_io *io = &q->ios[tags[n]];

		if (cmpxchg(&io->state, UBLK_IO_OWNED, UBLK_IO_QUEUED) != UBLK_IO_OWNED)
			continue;
		req = io->req;
		if (q->shares_memory)
			ublk_shmem_done(q->dev, req);
		if (q->registers)
			ublk_auto_unregister(io, io->ring, f->cmd, issue_flags);
		if (q->counts_refs && !ublk_ref_undo(io)) {
			/* It guessed the tag and uses its data: to be ended as if given. */
			ublk_arm(q, io, NULL, issue_flags);
			ublk_end(q, io, UBLK_RES_GIVE_BACK, 0, req);
			continue;
		}
		ublk_batch_put_back(q->batch, req);
	}
}

/* Deliver one buffer full. 0, or why the fetcher has to end. */
static int ublk_batch_deliver(struct ublk_queue *q, struct ublk_fetcher *f,
			      unsigned int issue_flags)
{
	struct ublk_uring_buffer buffer;
	u16 tags[UBLK_BATCH_MAX_TAGS];
	unsigned int room, n;
	int err;

	err = ublk_uring_buffer_select(f->cmd, f->buf_group, &buffer, issue_flags);
	if (err)
		return err;
	room = min_t(size_t, buffer.bytes / sizeof(tags[0]), ARRAY_SIZE(tags));
	n = ublk_batch_prepare(q, f, tags, room, issue_flags);
	if (!n) {
		ublk_uring_buffer_give_back(f->cmd, &buffer, issue_flags);
		return room ? 0 : -ENOBUFS;
	}
	if (copy_to_user(buffer.addr, tags, n * sizeof(tags[0]))) {
		ublk_uring_buffer_give_back(f->cmd, &buffer, issue_flags);
		err = -EFAULT;
	} else if (!ublk_uring_buffer_post(f->cmd, &buffer, n * sizeof(tags[0]), issue_flags)) {
		err = -ENOBUFS;
	}
	if (err)
		ublk_batch_undo(q, f, tags, n, issue_flags);
	return err;
}

/* All that waits, oldest first. By the active fetcher or when there is none, with batch->lock. */
static struct llist_node *ublk_batch_steal(struct ublk_batch_queue *batch)
{
	struct llist_node *all = batch->taken, **end = &all;

	lockdep_assert_held(&batch->lock);
	while (*end)
		end = &(*end)->next;
	*end = llist_reverse_order(llist_del_all(&batch->pending));
	batch->taken = NULL;
	return all;
}

/* No server takes these. */
static void ublk_batch_refuse(struct ublk_queue *q, struct llist_node *link)
{
	struct llist_node *next;

	for (; link; link = next) {
		struct request *req = ublk_rq_from_link(link);

		next = link->next;
		WRITE_ONCE(q->ios[req->tag].state, UBLK_IO_CANCELED);
		ublk_give_back(q->dev, req, true);
	}
}

UBLK_URING_TASK_WORK(ublk_batch_run)
{
	struct ublk_fetcher *f = ublk_cmd(cmd)->fetcher, *next;
	struct ublk_queue *q = ublk_cmd(cmd)->queue;
	struct ublk_batch_queue *batch = q->batch;
	struct llist_node *refused = NULL;
	unsigned int rounds = 0;
	int err = 0;

	if (current != ublk_uring_task(cmd) || current->flags & PF_EXITING)
		err = UBLK_IO_RES_ABORT;
	while (!err && !READ_ONCE(q->dev->canceling) && ublk_batch_has_work(batch) &&
	       rounds++ < UBLK_BATCH_MAX_ROUNDS)
		err = ublk_batch_deliver(q, f, issue_flags);

	spin_lock(&batch->lock);
	if (READ_ONCE(q->dev->canceling)) {
		refused = ublk_batch_steal(batch);
		err = UBLK_IO_RES_ABORT;
	}
	batch->active = NULL;
	if (!err)
		list_add_tail(&f->node, &batch->idle);
	next = ublk_batch_activate(batch);
	spin_unlock(&batch->lock);

	if (next)
		ublk_uring_run_in_task(next->cmd, ublk_batch_run);
	ublk_batch_refuse(q, refused);
	/* The last command may take q with it. */
	if (err)
		ublk_fetcher_end(f, err, issue_flags);
}

/* Requests were pushed. */
static void ublk_batch_wake(struct ublk_queue *q)
{
	struct ublk_fetcher *f;

	spin_lock(&q->batch->lock);
	f = ublk_batch_activate(q->batch);
	spin_unlock(&q->batch->lock);
	if (f)
		ublk_uring_run_in_task(f->cmd, ublk_batch_run);
}

/* Requests from @newest to @oldest, linked. From any context. */
void ublk_batch_push(struct ublk_queue *q, struct llist_node *newest, struct llist_node *oldest)
{
	/* If others wait there, somebody is on the way to them, or no fetcher is to be had. */
	if (llist_add_batch(newest, oldest, &q->batch->pending))
		ublk_batch_wake(q);
}

/*
 * End the fetchers and give back what waits for them. After ublk_cancel_begin(), which also has the
 * active fetcher end itself.
 */
void ublk_batch_cancel(struct ublk_queue *q, unsigned int issue_flags)
{
	struct ublk_batch_queue *batch = q->batch;
	struct llist_node *refused = NULL;
	struct ublk_fetcher *f, *more;
	LIST_HEAD(idle);

	spin_lock(&batch->lock);
	list_splice_init(&batch->idle, &idle);
	if (!batch->active)
		refused = ublk_batch_steal(batch);
	spin_unlock(&batch->lock);
	ublk_batch_refuse(q, refused);
	list_for_each_entry_safe(f, more, &idle, node)
		ublk_fetcher_end(f, UBLK_IO_RES_ABORT, issue_flags);
}

/* io_uring's: the ring of one fetcher goes away. */
void ublk_batch_cancel_one(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct ublk_queue *q = ublk_cmd(cmd)->queue;
	struct ublk_batch_queue *batch = q->batch;
	struct ublk_fetcher *f, *found = NULL;

	spin_lock(&batch->lock);
	list_for_each_entry(f, &batch->idle, node) {
		if (f->cmd == cmd) {
			list_del_init(&f->node);
			found = f;
			break;
		}
	}
	spin_unlock(&batch->lock);
	/* Else it is active, or somebody else ends it. */
	if (found)
		ublk_fetcher_end(found, UBLK_IO_RES_ABORT, issue_flags);
}

/* The server is gone and nothing waits. */
void ublk_batch_destroy(struct ublk_batch_queue *batch)
{
	if (!batch)
		return;
	WARN_ON_ONCE(!list_empty(&batch->idle) || batch->active || ublk_batch_has_work(batch));
	kfree(batch);
}

/* FETCH_IO_CMDS. */
static int ublk_batch_fetch(struct ublk_queue *q, const struct ublk_batch_io *b,
			    struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct ublk_batch_queue *batch = q->batch;
	struct ublk_fetcher *f, *next = NULL;
	bool closed;

	if (ublk_uring_ring_is_polled(cmd))
		return -EOPNOTSUPP;
	if (!ublk_uring_is_multishot(cmd) || b->elem_bytes != sizeof(u16) || b->flags)
		return -EINVAL;
	f = kzalloc(sizeof(*f), GFP_KERNEL);
	if (!f)
		return -ENOMEM;
	f->cmd = cmd;
	f->buf_group = ublk_uring_sqe_buf_index(cmd);
	ublk_cmd(cmd)->queue = q;
	ublk_cmd(cmd)->fetcher = f;
	/* Before others can end it. */
	ublk_uring_mark_cancelable(cmd, issue_flags);

	spin_lock(&batch->lock);
	closed = READ_ONCE(q->dev->canceling);
	if (!closed) {
		list_add_tail(&f->node, &batch->idle);
		next = ublk_batch_activate(batch);
	}
	spin_unlock(&batch->lock);
	if (closed)
		ublk_fetcher_end(f, UBLK_IO_RES_ABORT, issue_flags);
	if (next)
		ublk_uring_run_in_task(next->cmd, ublk_batch_run);
	return -EIOCBQUEUED;
}

/* One element of PREP or COMMIT as it lies in the server's memory, which was read once. */
struct ublk_batch_elem {
	struct ublk_elem_header	head;
	u64			addr;
	u64			zone_lba;
	u8			buf_flags;
};

static int ublk_batch_check(const struct ublk_queue *q, const struct ublk_batch_io *b)
{
	u64 features = q->dev->flags_granted;
	unsigned int bytes = sizeof(struct ublk_elem_header);

	if (b->nr_elem > q->depth)
		return -E2BIG;
	if (b->flags & ~UBLK_BATCH_F_ALL)
		return -EINVAL;
	if (b->flags & UBLK_BATCH_F_HAS_ZONE_LBA && !(features & UBLK_F_ZONED))
		return -EINVAL;
	if (b->flags & UBLK_BATCH_F_HAS_BUF_ADDR && !q->copies)
		return -EINVAL;
	if (b->flags & UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK && !q->registers)
		return -EINVAL;
	if (b->flags & UBLK_BATCH_F_HAS_BUF_ADDR)
		bytes += sizeof(u64);
	if (b->flags & UBLK_BATCH_F_HAS_ZONE_LBA)
		bytes += sizeof(u64);
	return b->elem_bytes == bytes ? 0 : -EINVAL;
}

static int ublk_batch_read(const struct ublk_queue *q, const struct ublk_batch_io *b,
			   const void __user *at, struct ublk_batch_elem *elem)
{
	u8 raw[sizeof(struct ublk_elem_header) + 2 * sizeof(u64)];
	const u8 *more = raw + sizeof(elem->head);

	if (copy_from_user(raw, at, b->elem_bytes))
		return -EFAULT;
	memset(elem, 0, sizeof(*elem));
	memcpy(&elem->head, raw, sizeof(elem->head));
	if (b->flags & UBLK_BATCH_F_HAS_BUF_ADDR) {
		memcpy(&elem->addr, more, sizeof(elem->addr));
		more += sizeof(elem->addr);
	}
	if (b->flags & UBLK_BATCH_F_HAS_ZONE_LBA)
		memcpy(&elem->zone_lba, more, sizeof(elem->zone_lba));
	if (b->flags & UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK)
		elem->buf_flags = UBLK_AUTO_BUF_REG_FALLBACK;
	if (elem->head.tag >= q->depth)
		return -EINVAL;
	return q->copies && !elem->addr ? -EINVAL : 0;
}

static void ublk_batch_set_buffer(struct ublk_io *io, const struct ublk_batch_elem *elem)
{
	io->addr = elem->addr;
	io->auto_buf.index = elem->head.buf_index;
	io->auto_buf.flags = elem->buf_flags;
}

/* dev->mutex held. */
static int ublk_batch_prep_one(struct ublk_queue *q, const struct ublk_batch_elem *elem)
{
	struct ublk_io *io = &q->ios[elem->head.tag];

	if (q->dev->canceling)
		return UBLK_IO_RES_ABORT;
	if (q->nr_fetched == q->depth)
		return -EBUSY;
	if (io->state != UBLK_IO_IDLE)
		return -EINVAL;
	ublk_batch_set_buffer(io, elem);
	WRITE_ONCE(io->state, UBLK_IO_ACTIVE);
	q->nr_fetched++;
	return 0;
}

/* PREP_IO_CMDS: all of them or none. */
static int ublk_batch_prep(struct ublk_queue *q, const struct ublk_batch_io *b,
			   const struct ublk_batch_elem *elems)
{
	struct ublk_device *dev = q->dev;
	unsigned int i;
	int err = 0;

	mutex_lock(&dev->mutex);
	for (i = 0; i < b->nr_elem && !err; i++)
		err = ublk_batch_prep_one(q, &elems[i]);
	if (err) {
		/* The last one was not done. */
		for (i--; i--;) {
			WRITE_ONCE(q->ios[elems[i].head.tag].state, UBLK_IO_IDLE);
			q->nr_fetched--;
		}
	} else if (b->nr_elem) {
		if (!capable(CAP_SYS_ADMIN))
			set_bit(UBLK_DEV_UNTRUSTED, &dev->flags);
		if (q->nr_fetched == q->depth)
			ublk_queue_ready(dev);
	}
	mutex_unlock(&dev->mutex);
	return err;
}

static int ublk_batch_prep_cmd(struct ublk_queue *q, const struct ublk_batch_io *b,
			       const void __user *buf)
{
	struct ublk_batch_elem *elems;
	unsigned int i;
	int err = 0;

	/* Page faults are taken before the mutex is. */
	elems = kvcalloc(b->nr_elem, sizeof(*elems), GFP_KERNEL);
	if (!elems)
		return -ENOMEM;
	for (i = 0; i < b->nr_elem && !err; i++)
		err = ublk_batch_read(q, b, buf + i * b->elem_bytes, &elems[i]);
	if (!err)
		err = ublk_batch_prep(q, b, elems);
	kvfree(elems);
	return err;
}

static int ublk_batch_commit_one(struct ublk_queue *q, const struct ublk_batch_elem *elem,
				 struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct ublk_io *io = &q->ios[elem->head.tag];
	int res = elem->head.result;
	struct request *req;
	u32 bytes = 0;

	/* Any task may commit: one of them gets it. */
	if (cmpxchg_acquire(&io->state, UBLK_IO_OWNED, UBLK_IO_COMMITS) != UBLK_IO_OWNED)
		return -EBUSY;
	req = io->req;
	if (q->registers)
		ublk_auto_unregister(io, io->ring, cmd, issue_flags);
	if (res >= 0)
		bytes = ublk_bytes_done(q, io, req, res, q->copies ? elem->addr : elem->zone_lba);
	ublk_batch_set_buffer(io, elem);
	ublk_arm(q, io, NULL, issue_flags);
	ublk_end(q, io, res, bytes, req);
	return 0;
}

/* COMMIT_IO_CMDS: returns the bytes of @buf that were used, or the first one's error. */
static int ublk_batch_commit_cmd(struct ublk_queue *q, const struct ublk_batch_io *b,
				 const void __user *buf, struct io_uring_cmd *cmd,
				 unsigned int issue_flags)
{
	struct ublk_batch_elem elem;
	unsigned int done = 0;
	int err = 0;

	while (done < b->nr_elem) {
		err = ublk_batch_read(q, b, buf + done * b->elem_bytes, &elem);
		if (!err)
			err = ublk_batch_commit_one(q, &elem, cmd, issue_flags);
		if (err)
			break;
		done++;
	}
	return done ? done * b->elem_bytes : err;
}

int ublk_batch_cmd(struct ublk_device *dev, struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	const struct ublk_batch_io *p = ublk_uring_payload(cmd);
	struct ublk_batch_io b = {
		.q_id		= READ_ONCE(p->q_id),
		.flags		= READ_ONCE(p->flags),
		.nr_elem	= READ_ONCE(p->nr_elem),
		.elem_bytes	= READ_ONCE(p->elem_bytes),
	};
	const void __user *buf = u64_to_user_ptr(ublk_uring_sqe_addr(cmd));
	struct ublk_queue *q;
	int err;

	switch (cmd->cmd_op) {
	case UBLK_U_IO_PREP_IO_CMDS:
	case UBLK_U_IO_COMMIT_IO_CMDS:
	case UBLK_U_IO_FETCH_IO_CMDS:
		break;
	default:
		return -EOPNOTSUPP;
	}
	if (b.q_id >= dev->nr_queues)
		return -EINVAL;
	q = dev->queues[b.q_id];
	if (cmd->cmd_op == UBLK_U_IO_FETCH_IO_CMDS)
		return ublk_batch_fetch(q, &b, cmd, issue_flags);
	err = ublk_batch_check(q, &b);
	if (err)
		return err;
	if (cmd->cmd_op == UBLK_U_IO_PREP_IO_CMDS)
		return ublk_batch_prep_cmd(q, &b, buf);
	return ublk_batch_commit_cmd(q, &b, buf, cmd, issue_flags);
}
