// SPDX-License-Identifier: GPL-2.0
/*
 * The way of a request: from blk-mq into a lane, and from the lane to the server's task. Its end is
 * in end.c.
 *
 * queue_rq and queue_rqs run in any context and only push; everything that touches the server's
 * memory or posts a CQE runs in the server's task (ublk_lane_run, and the commands of chan.c).
 */
#include <linux/sched/signal.h>

#include "ublk_drv.h"
#include "trace.h"

/* Wait before a request is tried again whose data could not be copied, in milliseconds. */
#define UBLK_RETRY_MS	3

#define UBLK_REQ_FLAGS	(REQ_FAILFAST_DEV | REQ_FAILFAST_TRANSPORT | REQ_FAILFAST_DRIVER | \
			 REQ_META | REQ_FUA | REQ_NOUNMAP | REQ_SWAP)

static u32 ublk_flags_of(blk_opf_t opf)
{
	u32 flags = 0;

	if (opf & REQ_FAILFAST_DEV)
		flags |= UBLK_IO_F_FAILFAST_DEV;
	if (opf & REQ_FAILFAST_TRANSPORT)
		flags |= UBLK_IO_F_FAILFAST_TRANSPORT;
	if (opf & REQ_FAILFAST_DRIVER)
		flags |= UBLK_IO_F_FAILFAST_DRIVER;
	if (opf & REQ_META)
		flags |= UBLK_IO_F_META;
	if (opf & REQ_FUA)
		flags |= UBLK_IO_F_FUA;
	if (opf & REQ_NOUNMAP)
		flags |= UBLK_IO_F_NOUNMAP;
	if (opf & REQ_SWAP)
		flags |= UBLK_IO_F_SWAP;
	return flags;
}

/* Neither read nor write; negative for those that a server never sees. */
static int ublk_rare_op(const struct request *req)
{
	switch (req_op(req)) {
	case REQ_OP_FLUSH:
		return UBLK_IO_OP_FLUSH;
	case REQ_OP_DISCARD:
		return UBLK_IO_OP_DISCARD;
	case REQ_OP_WRITE_ZEROES:
		return UBLK_IO_OP_WRITE_ZEROES;
	case REQ_OP_ZONE_OPEN:
		return UBLK_IO_OP_ZONE_OPEN;
	case REQ_OP_ZONE_CLOSE:
		return UBLK_IO_OP_ZONE_CLOSE;
	case REQ_OP_ZONE_FINISH:
		return UBLK_IO_OP_ZONE_FINISH;
	case REQ_OP_ZONE_APPEND:
		return UBLK_IO_OP_ZONE_APPEND;
	case REQ_OP_ZONE_RESET:
		return UBLK_IO_OP_ZONE_RESET;
	case REQ_OP_ZONE_RESET_ALL:
		return UBLK_IO_OP_ZONE_RESET_ALL;
	case REQ_OP_DRV_IN:	/* ours alone, see zones.c */
		return UBLK_IO_OP_REPORT_ZONES;
	default:
		return -EOPNOTSUPP;
	}
}

/* Translate the operation; false for those that a server never sees. */
static __always_inline bool ublk_describe(struct request *req)
{
	int op;

	/* Their numbers are the same on both sides. */
	BUILD_BUG_ON((int)REQ_OP_READ != UBLK_IO_OP_READ || (int)REQ_OP_WRITE != UBLK_IO_OP_WRITE);
	if (likely(req_op(req) <= REQ_OP_WRITE)) {
		op = req_op(req);
	} else {
		op = ublk_rare_op(req);
		if (op < 0)
			return false;
	}
	if (unlikely(req->cmd_flags & UBLK_REQ_FLAGS))
		op |= ublk_flags_of(req->cmd_flags);
	ublk_rq(req)->op_flags = op;
	return true;
}

/*
 * A request that no server finished: fail it, or let it wait on the requeue list, and return true.
 * Waiting requests come back when the list is kicked.
 */
bool ublk_give_back(struct ublk_device *dev, struct request *req, bool reissue)
{
	/* A disk that is still being made does not wait for another server: nobody would kick. */
	if (reissue && ublk_dev_holds_requests(dev) && !READ_ONCE(dev->starting)) {
		atomic_long_inc(&dev->counters.requeued);
		blk_mq_requeue_request(req, false);
		return true;
	}
	atomic_long_inc(&dev->counters.aborted);
	blk_mq_end_request(req, BLK_STS_IOERR);
	return false;
}

/* Let the requests on the requeue list try again. dev->mutex held. */
void ublk_kick(struct ublk_device *dev)
{
	lockdep_assert_held(&dev->mutex);
	if (dev->disk)
		blk_mq_kick_requeue_list(dev->disk->queue);
}

/* The request could not be handed over, but can be later: arm its tag again and retry. */
static void ublk_retry(struct ublk_queue *q, struct ublk_io *io, struct request *req,
		       struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct request_queue *rq_queue = req->q;

	ublk_arm(q, io, q->batch ? NULL : cmd, issue_flags);
	blk_mq_requeue_request(req, false);
	blk_mq_delay_kick_requeue_list(rq_queue, UBLK_RETRY_MS);
}

/*
 * Register the request's pages with the server's ring. Returns flags for the server, or negative if
 * the request is over.
 */
static int ublk_prepare_pages(struct ublk_queue *q, struct ublk_io *io, struct request *req,
			      struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	int ret;

	if (!ublk_rq_has_data(req))
		return 0;
	ret = ublk_auto_register(q, io, req, cmd, issue_flags);
	if (unlikely(ret < 0)) {
		ublk_arm(q, io, q->batch ? NULL : cmd, issue_flags);
		/* That its ring has no such place is no fault of the disk's user. */
		ublk_end(q, io, -EIO, 0, req);
	}
	return ret;
}

/*
 * Make a request ready for the server: data of a write in its buffer, pages registered with the
 * ring of @cmd, the descriptor. In the server's task. False if there is nothing to tell the server;
 * the tag is armed again then.
 */
bool ublk_prepare(struct ublk_queue *q, struct ublk_io *io, struct request *req,
		  struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct ublksrv_io_desc *desc = ublk_desc(q, ublk_io_tag(q, io));
	u32 op_flags = ublk_rq(req)->op_flags;
	u32 bytes = blk_rq_bytes(req);
	u64 shmem = unlikely(q->shares_memory) ? ublk_shmem_take(q->dev, req) : UBLK_NO_SHMEM;

	if (unlikely(shmem != UBLK_NO_SHMEM)) {
		op_flags |= UBLK_IO_F_SHMEM_ZC;
	} else if (q->copies && (op_flags & 0xff) == UBLK_IO_OP_WRITE) {
		u32 copied = ublk_copy_to_server(req, io->addr);

		if (unlikely(copied != bytes)) {
			/* The server gets what fits; the rest is a request of its own later. */
			bytes = round_down(copied, queue_logical_block_size(req->q));
			if (!bytes) {
				ublk_retry(q, io, req, cmd, issue_flags);
				return false;
			}
		}
	}
	if (q->counts_refs) {
		if (q->protects && blk_integrity_rq(req))
			op_flags |= UBLK_IO_F_INTEGRITY;
		atomic_set(&io->refs, UBLK_REF_SERVER);
		if (q->registers) {
			int flags = ublk_prepare_pages(q, io, req, cmd, issue_flags);

			if (unlikely(flags < 0))
				return false;
			op_flags |= flags;
		}
	}

	desc->op_flags = op_flags;
	desc->nr_sectors = bytes >> SECTOR_SHIFT;
	if (unlikely((op_flags & 0xff) == UBLK_IO_OP_REPORT_ZONES))
		desc->nr_zones = ublk_rq(req)->nr_zones;
	desc->start_sector = blk_rq_pos(req);
	desc->addr = shmem != UBLK_NO_SHMEM ? shmem : io->addr;
	io->bytes = bytes;
	trace_ublk_dispatch(q->dev->id, q->id, ublk_io_tag(q, io), desc);
	smp_store_release(&io->state, UBLK_IO_OWNED);
	return true;
}

/* Give a request to the server. In its task. @cmd is gone afterwards. */
void ublk_hand_over(struct ublk_queue *q, struct ublk_io *io, struct request *req,
		    struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	if (likely(ublk_prepare(q, io, req, cmd, issue_flags)))
		ublk_uring_done(cmd, UBLK_IO_RES_OK, issue_flags);
}

/* Tell the server about a write without its data. */
static void ublk_ask_for_buffer(struct ublk_queue *q, struct ublk_io *io, struct request *req,
				struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct ublksrv_io_desc *desc = ublk_desc(q, ublk_io_tag(q, io));

	desc->op_flags = ublk_rq(req)->op_flags;
	desc->nr_sectors = blk_rq_sectors(req);
	desc->start_sector = blk_rq_pos(req);
	desc->addr = io->addr;
	io->bytes = blk_rq_bytes(req);
	WRITE_ONCE(io->state, UBLK_IO_WANT_DATA);
	ublk_uring_done(cmd, UBLK_IO_RES_NEED_GET_DATA, issue_flags);
}

/* The task is dying and takes no more requests. */
static void ublk_refuse(struct ublk_queue *q, struct ublk_io *io, struct request *req,
			unsigned int issue_flags)
{
	struct ublk_device *dev = q->dev;
	struct request_queue *rq_queue = req->q;

	/* First the tag, which is free for another request as soon as this one goes. */
	ublk_arm(q, io, io->cmd, issue_flags);
	if (ublk_give_back(dev, req, true))
		blk_mq_delay_kick_requeue_list(rq_queue, UBLK_RETRY_MS);
}

/* Runs for the carrier of a lane: everything that waits there, oldest first. */
UBLK_URING_TASK_WORK(ublk_lane_run)
{
	struct ublk_lane *lane = ublk_cmd(cmd)->io->lane;
	struct ublk_queue *q = lane->queue;
	struct llist_node *link, *next;
	bool alive;

	alive = current == lane->task && !(current->flags & PF_EXITING) &&
		!ublk_uring_ring_is_dying(cmd);
	if (unlikely(!alive))
		ublk_monitor_kick(q->dev);

	link = llist_del_all(&lane->pending);
	if (unlikely(!link)) {
		/* They were given back meanwhile: see ublk_lane_give_back(). */
		ublk_uring_done(cmd, UBLK_IO_RES_ABORT, issue_flags);
		return;
	}
	if (link->next)
		link = llist_reverse_order(link);
	/* The last command that is completed may take lane with it. */
	for (; link; link = next) {
		struct request *req = ublk_rq_from_link(link);
		struct ublk_io *io = &q->ios[req->tag];

		next = link->next;
		if (unlikely(!alive))
			ublk_refuse(q, io, req, issue_flags);
		else if (q->asks_for_buffer && req_op(req) == REQ_OP_WRITE)
			ublk_ask_for_buffer(q, io, req, io->cmd, issue_flags);
		else
			ublk_hand_over(q, io, req, io->cmd, issue_flags);
	}
}

/*
 * What waits in the lane of a dead task. The gate is closed. Task work is under way for it, but may
 * come late: with IORING_SETUP_DEFER_TASKRUN not before the ring is closed. The command that carries
 * it, that of the oldest request, has to wait for it.
 */
void ublk_lane_give_back(struct ublk_lane *lane)
{
	struct llist_node *link = llist_reverse_order(llist_del_all(&lane->pending));
	struct ublk_queue *q = lane->queue;
	struct llist_node *next;
	bool carrier = true;

	for (; link; link = next) {
		struct request *req = ublk_rq_from_link(link);
		struct ublk_io *io = &q->ios[req->tag];

		next = link->next;
		if (carrier) {
			WRITE_ONCE(io->state, UBLK_IO_CANCELED);
			ublk_give_back(q->dev, req, true);
		} else {
			ublk_refuse(q, io, req, IO_URING_F_UNLOCKED);
		}
		carrier = false;
	}
}

/* Can the request go to the server now? If not, ublk_turn_away() says what happens to it. */
static __always_inline bool ublk_admit(struct ublk_queue *q, struct request *req)
{
	struct ublk_io *io = &q->ios[req->tag];

	if (unlikely(READ_ONCE(q->gate) != UBLK_GATE_OPEN))
		return false;
	if (unlikely(!ublk_describe(req)))
		return false;
	/* A thread may die alone, and its ring stay open: io_uring does not tell. */
	if (unlikely(ublk_task_is_dying(io))) {
		ublk_monitor_kick(q->dev);
		return false;
	}
	return !WARN_ON_ONCE(io->state != UBLK_IO_ACTIVE);
}

static blk_status_t ublk_turn_away(struct ublk_queue *q, struct request *req)
{
	struct request_queue *rq_queue = req->q;
	u8 gate = READ_ONCE(q->gate);

	if (!ublk_describe(req))
		return BLK_STS_NOTSUPP;
	if (gate == UBLK_GATE_FAIL || !ublk_dev_holds_requests(q->dev)) {
		atomic_long_inc(&q->dev->counters.aborted);
		return BLK_STS_IOERR;
	}
	blk_mq_requeue_request(req, false);
	/* With the gate open the server's death is about to be noticed. */
	if (gate == UBLK_GATE_OPEN)
		blk_mq_delay_kick_requeue_list(rq_queue, UBLK_RETRY_MS);
	return BLK_STS_OK;
}

static void ublk_start(struct ublk_queue *q, struct ublk_io *io, struct request *req)
{
	blk_mq_start_request(req);
	if (unlikely(q->shares_memory))
		ublk_rq(req)->shmem = NULL;
	io->req = req;
	WRITE_ONCE(io->state, UBLK_IO_QUEUED);
}

static blk_status_t ublk_queue_rq(struct blk_mq_hw_ctx *hctx,
				  const struct blk_mq_queue_data *bd)
{
	struct ublk_queue *q = hctx->driver_data;
	struct request *req = bd->rq;
	struct ublk_io *io = &q->ios[req->tag];

	if (unlikely(!ublk_admit(q, req)))
		return ublk_turn_away(q, req);
	ublk_start(q, io, req);
	if (unlikely(q->batch))
		ublk_batch_push(q, &ublk_rq(req)->link, &ublk_rq(req)->link);
	else if (llist_add(&ublk_rq(req)->link, &io->lane->pending))
		ublk_uring_run_in_task(io->cmd, ublk_lane_run);
	return BLK_STS_OK;
}

/* Requests of one lane, or of one queue without lanes, linked newest first. */
struct ublk_run {
	struct ublk_queue	*queue;
	struct ublk_lane	*lane;
	struct llist_node	*newest;
	struct llist_node	*oldest;
	struct io_uring_cmd	*carrier;	/* of the oldest */
};

static void ublk_run_push(struct ublk_run *b)
{
	if (!b->newest)
		return;
	if (unlikely(b->queue->batch))
		ublk_batch_push(b->queue, b->newest, b->oldest);
	else if (llist_add_batch(b->newest, b->oldest, &b->lane->pending))
		ublk_uring_run_in_task(b->carrier, ublk_lane_run);
	b->newest = NULL;
}

static void ublk_run_add(struct ublk_run *b, struct ublk_queue *q, struct ublk_io *io,
			 struct request *req)
{
	struct llist_node *link = &ublk_rq(req)->link;

	if (b->newest && (b->lane != io->lane || b->queue != q))
		ublk_run_push(b);
	if (!b->newest) {
		b->queue = q;
		b->lane = io->lane;
		b->carrier = io->cmd;
		b->oldest = link;
		b->newest = link;
		link->next = NULL;
	} else if (UBLK_RQ_LIST_NEWEST_FIRST) {
		b->carrier = io->cmd;
		b->oldest->next = link;
		b->oldest = link;
		link->next = NULL;
	} else {
		link->next = b->newest;
		b->newest = link;
	}
}

static void ublk_queue_rqs(ublk_rq_list *list)
{
	struct ublk_run run = {};
	ublk_rq_list rest;
	struct request *req;

	ublk_rq_list_init(&rest);
	while ((req = ublk_rq_list_pop(list))) {
		struct ublk_queue *q = req->mq_hctx->driver_data;
		struct ublk_io *io = &q->ios[req->tag];

		if (unlikely(!ublk_admit(q, req))) {
			/* blk-mq gives these to queue_rq one by one. */
			ublk_rq_list_append(&rest, req);
			continue;
		}
		/* This path has not told blk-mq yet which request has the tag. */
		req->mq_hctx->tags->rqs[req->tag] = req;
		ublk_start(q, io, req);
		ublk_run_add(&run, q, io, req);
	}
	ublk_run_push(&run);
	*list = rest;
}

/*
 * Servers may take as long as they want, unless an ordinary user's keeps the whole system waiting.
 * A thread may die alone with requests in its hands, and io_uring does not tell.
 */
static enum blk_eh_timer_return ublk_timeout(struct request *req)
{
	struct ublk_queue *q = req->mq_hctx->driver_data;
	struct ublk_io *io = &q->ios[req->tag];
	struct ublk_device *dev = q->dev;
	bool here, dying;

	/* The task stays as long as the tag has a request, and a grace period after that. */
	rcu_read_lock();
	here = ublk_io_has_request(io);
	dying = here && ublk_task_is_dying(io);
	rcu_read_unlock();
	if (dying) {
		ublk_monitor_kick(dev);
	} else if (here && dev->flags_granted & UBLK_F_UNPRIVILEGED_DEV &&
		   mutex_trylock(&dev->mutex)) {
		/* Whoever has the mutex may wait for us; there is another time. */
		if (dev->server)
			kill_pid(dev->server, SIGKILL, 1);
		mutex_unlock(&dev->mutex);
	}
	return BLK_EH_RESET_TIMER;
}

static int ublk_init_hctx(struct blk_mq_hw_ctx *hctx, void *data, unsigned int index)
{
	struct ublk_device *dev = data;

	hctx->driver_data = dev->queues[index];
	return 0;
}

const struct blk_mq_ops ublk_mq_ops = {
	.queue_rq	= ublk_queue_rq,
	.queue_rqs	= ublk_queue_rqs,
	.init_hctx	= ublk_init_hctx,
	.timeout	= ublk_timeout,
};
