// SPDX-License-Identifier: GPL-2.0
/*
 * References to a request that a server has, in the modes in which others than the kernel's copy
 * touch its pages: user copy and registered buffers. The request ends when the last of them goes,
 * which may be long after its tag was committed.
 *
 * io->refs: 0 nobody has a request; 2 or more: one for the server, until it commits or is found
 * dead, one for each copy or buffer; 1: the last reference is gone and the request is being ended.
 */
#include "ublk_drv.h"

#define UBLK_REF_FREE	0
#define UBLK_REF_ENDS	1
#define UBLK_REF_SERVER	2

/* The request goes to the server. */
void ublk_ref_init(struct ublk_io *io)
{
	atomic_set(&io->refs, UBLK_REF_SERVER);
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

/* Drop one. The result that the request ends with was stored in io by whoever had the server's. */
void ublk_ref_put(struct ublk_queue *q, struct ublk_io *io)
{
	struct ublk_device *dev = q->dev;
	struct request *req;
	u32 bytes;
	int res;

	if (atomic_dec_return(&io->refs) != UBLK_REF_ENDS)
		return;
	/* The read section is for ublk_refs_drain(). The tag is free for another request soon. */
	rcu_read_lock();
	req = io->req;
	res = io->res;
	bytes = io->bytes;
	atomic_set_release(&io->refs, UBLK_REF_FREE);
	ublk_finish(dev, req, res, bytes);
	smp_mb();	/* pairs with the one in ublk_refs_drain() */
	if (unlikely(READ_ONCE(dev->released)))
		wake_up_all(&dev->wait);
	rcu_read_unlock();
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
