// SPDX-License-Identifier: GPL-2.0
/*
 * The end of a request that the server had: when its tag is committed or the server is found dead.
 * In the modes in which others than the kernel's copy touch its pages, user copy and registered
 * buffers, it ends when the last of them is done, which may be long after that; io->refs counts.
 */
#include <linux/bottom_half.h>

#include "ublk_drv.h"
#include "trace.h"

/*
 * End a request: @res is UBLK_RES_GIVE_BACK when no server answered it, < 0 for the server's error,
 * otherwise the first @bytes are done. What remains is queued again as a request of its own. The
 * caller has armed or cancelled the tag.
 *
 * Softirqs have to be off, so that a last fput() that hangs on the bio is left to another task:
 * releasing a block device may need the server, which is the one who runs this.
 */
static __always_inline void ublk_finish(struct ublk_device *dev, struct request *req, int res,
					unsigned int bytes)
{
	if (likely(res >= 0 && bytes == blk_rq_bytes(req)))
		blk_mq_end_request(req, BLK_STS_OK);
	else if (res == UBLK_RES_GIVE_BACK)
		ublk_give_back(dev, req, dev->flags_granted & UBLK_F_USER_RECOVERY_REISSUE);
	else if (res < 0)
		blk_mq_end_request(req, errno_to_blk_status(res));
	else if (!bytes)
		blk_mq_end_request(req, BLK_STS_IOERR);
	else if (blk_update_request(req, BLK_STS_OK, bytes))
		blk_mq_requeue_request(req, true);
	else
		__blk_mq_end_request(req, BLK_STS_OK);
}

/*
 * The last reference is gone: end the request. To be without softirqs, which ublk_finish() asks
 * for, is a read section of RCU as well, for ublk_refs_drain().
 */
void ublk_ref_end(struct ublk_queue *q, struct ublk_io *io)
{
	struct ublk_device *dev = q->dev;
	struct request *req;
	u32 bytes;
	int res;

	local_bh_disable();
	req = io->req;
	res = io->res;
	bytes = io->bytes;
	/* The tag is free for another request soon. */
	atomic_set_release(&io->refs, UBLK_REF_FREE);
	ublk_finish(dev, req, res, bytes);
	smp_mb();	/* pairs with the one in ublk_refs_drain() */
	if (unlikely(READ_ONCE(dev->released)))
		wake_up_all(&dev->wait);
	local_bh_enable();
}

/* As ublk_finish(), for a request that the server had. Others may still use it. */
void ublk_end(struct ublk_queue *q, struct ublk_io *io, int res, unsigned int bytes,
	      struct request *req)
{
	trace_ublk_commit(q->dev->id, q->id, ublk_io_tag(q, io), res, bytes);
	if (unlikely(q->shares_memory))
		ublk_shmem_done(q->dev, req);
	if (!q->counts_refs) {
		local_bh_disable();
		ublk_finish(q->dev, req, res, bytes);
		local_bh_enable();
		return;
	}
	io->res = res;
	io->bytes = bytes;
	ublk_ref_put(q, io);
}

/* From any task: the request of a tag that a server has, with a reference, or NULL. */
struct request *ublk_ref_get(struct ublk_io *io)
{
	int refs = atomic_read(&io->refs);

	do {
		if (refs < UBLK_REF_SERVER)
			return NULL;
	} while (!atomic_try_cmpxchg(&io->refs, &refs, refs + 1));
	return io->req;
}

/* The server was not told of the request after all. False if others have references. */
bool ublk_ref_undo(struct ublk_io *io)
{
	return atomic_cmpxchg(&io->refs, UBLK_REF_SERVER, UBLK_REF_FREE) == UBLK_REF_SERVER;
}

static bool ublk_refs_are_gone(struct ublk_device *dev)
{
	u16 i, tag;

	for (i = 0; i < dev->nr_queues; i++)
		for (tag = 0; tag < dev->depth; tag++)
			if (atomic_read(&dev->queues[i]->ios[tag].refs) != UBLK_REF_FREE)
				return false;
	return true;
}

/*
 * Wait until nobody has a request any more. The server is gone and what it had was given back; but
 * a ring that is still open may have a request's pages registered.
 */
void ublk_refs_drain(struct ublk_device *dev)
{
	smp_mb();	/* dev->released is set */
	wait_event(dev->wait, ublk_refs_are_gone(dev));
	synchronize_rcu();
}
