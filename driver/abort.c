// SPDX-License-Identifier: GPL-2.0
/*
 * The end of a server, in two stages.
 *
 * Stage 1, as soon as it is known to be dead or to have closed its ring: the gates close, and every
 * armed command is completed with ABORT. That lets go of the char device.
 * Stage 2, when the char device is released and so nobody can touch a request any more: requests
 * that the server held are failed or queued again, and the disk goes or waits for the next server.
 *
 * Stage 1 starts from io_uring's cancel call where there is one (chan.c), and from the monitor,
 * which looks at the server's tasks: when the task work of a request finds its task dying and, where
 * io_uring does not call, when the char device or its mapping is closed. There all servers are also
 * looked at every UBLK_POLL_MS, by one work for all devices.
 */
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>

#include "ublk_drv.h"
#include "trace.h"

#define UBLK_POLL_MS		250
/* A task that two polls in a row find in exec waits there for its commands to end. */
#define UBLK_EXEC_POLLS		2

/* Devices whose servers are polled. Its lock is taken inside of dev->mutex. */
static LIST_HEAD(ublk_watched);
static DEFINE_MUTEX(ublk_watched_lock);

/*
 * Stage 1 begins: after this, ACTIVE commands may be cancelled. Can be called again. dev->mutex
 * held.
 */
void ublk_cancel_begin_locked(struct ublk_device *dev)
{
	lockdep_assert_held(&dev->mutex);
	/* Whoever has the char device open now gets no more commands in. */
	if (!dev->canceling && test_bit(UBLK_DEV_OPEN, &dev->flags)) {
		trace_ublk_abort(dev->id, dev->info.state);
		dev->canceling = true;
	}
	ublk_gates_close(dev);
	/* QUIESCE_DEV has nothing to wait for any more. */
	wake_up_all(&dev->wait);
}

void ublk_cancel_begin(struct ublk_device *dev)
{
	mutex_lock(&dev->mutex);
	ublk_cancel_begin_locked(dev);
	mutex_unlock(&dev->mutex);
}

/*
 * Stage 1 for control commands, which flush cancel_work later.
 *
 * Completing the last command may be the last use of the char device's file. Its release would then
 * be left to the caller, as task work, which a worker of io_uring on its way to wait for that
 * release does not get to. A kernel thread has it done elsewhere.
 */
void ublk_cancel_start(struct ublk_device *dev)
{
	mutex_lock(&dev->mutex);
	ublk_cancel_begin_locked(dev);
	/* Not for a server that is gone: the work must not meet the commands of the next one. */
	if (dev->canceling && !dev->released)
		queue_work(ublk_wq, &dev->cancel_work);
	mutex_unlock(&dev->mutex);
}

/*
 * Complete all ACTIVE commands, and fetchers. After ublk_cancel_begin(), without locks, in a kernel
 * thread.
 */
void ublk_cancel_all(struct ublk_device *dev)
{
	u16 i, tag;

	for (i = 0; i < dev->nr_queues; i++) {
		struct ublk_queue *q = dev->queues[i];

		for (tag = 0; tag < q->depth; tag++)
			ublk_cancel_io(&q->ios[tag], IO_URING_F_UNLOCKED);
		if (q->batch)
			ublk_batch_cancel(q, IO_URING_F_UNLOCKED);
	}
}

void ublk_cancel_work(struct work_struct *work)
{
	ublk_cancel_all(container_of(work, struct ublk_device, cancel_work));
}

static bool ublk_lane_is_dead(struct ublk_lane *lane)
{
	if (READ_ONCE(lane->task->flags) & PF_EXITING)
		return true;
	if (UBLK_CAN_CANCEL)
		return false;
	/* A thread of io_uring itself (SQPOLL) waits for its commands to end before it exits. */
	if (READ_ONCE(lane->task->signal->flags) & SIGNAL_GROUP_EXIT)
		return true;
	/* exec waits for the commands of the old program, before it closes any file. */
	lane->seen_in_exec = lane->task->in_execve ? lane->seen_in_exec + 1 : 0;
	return lane->seen_in_exec >= UBLK_EXEC_POLLS;
}

/* dev->mutex held. */
static bool ublk_has_dead_task(struct ublk_device *dev)
{
	struct ublk_lane *lane;
	u16 i;

	for (i = 0; i < dev->nr_queues; i++)
		for (lane = dev->queues[i]->lanes; lane; lane = lane->next)
			if (ublk_lane_is_dead(lane))
				return true;
	return false;
}

/* dev->mutex held, requests kept out, nobody cancels: ACTIVE commands stay what they are. */
static bool ublk_has_armed_dying_ring(struct ublk_device *dev)
{
	u16 i, tag;

	for (i = 0; i < dev->nr_queues; i++) {
		struct ublk_queue *q = dev->queues[i];

		for (tag = 0; tag < q->depth; tag++) {
			struct ublk_io *io = &q->ios[tag];

			if (smp_load_acquire(&io->state) == UBLK_IO_ACTIVE &&
			    ublk_uring_ring_is_dying(io->cmd))
				return true;
		}
	}
	return false;
}

/* dev->mutex held. */
static bool ublk_has_dying_ring(struct ublk_device *dev)
{
	bool dying;

	if (dev->disk)
		blk_mq_quiesce_queue(dev->disk->queue);
	dying = ublk_has_armed_dying_ring(dev);
	if (dev->disk)
		blk_mq_unquiesce_queue(dev->disk->queue);
	return dying;
}

/* Does the tag have a request that nobody will commit? Its task has to be gone first. */
static bool ublk_is_abandoned(const struct ublk_device *dev, const struct ublk_io *io)
{
	u32 state;

	if (!dev->released && !ublk_task_is_dying(io))
		return false;
	/* The last that the task did was before that. */
	smp_rmb();
	state = READ_ONCE(io->state);
	return state == UBLK_IO_OWNED || state == UBLK_IO_WANT_DATA;
}

/*
 * What the dead server held. Nobody else can touch these requests: only their task commits, and
 * that is gone. No lock: others may wait for these requests with dev->mutex.
 */
static void ublk_abort_owned(struct ublk_queue *q)
{
	u16 tag;

	for (tag = 0; tag < q->depth; tag++) {
		struct ublk_io *io = &q->ios[tag];

		if (!ublk_is_abandoned(q->dev, io))
			continue;
		WRITE_ONCE(io->state, UBLK_IO_CANCELED);
		ublk_end(q, io, UBLK_RES_GIVE_BACK, 0, io->req);
	}
}

/* What was on its way to dead threads. */
static void ublk_abort_pending(struct ublk_queue *q)
{
	struct ublk_lane *lane;

	/* Lanes are added at the front, and freed after this work was waited for. */
	mutex_lock(&q->dev->mutex);
	lane = q->lanes;
	mutex_unlock(&q->dev->mutex);
	for (; lane; lane = lane->next)
		if (READ_ONCE(lane->task->flags) & PF_EXITING)
			ublk_lane_give_back(lane);
}

/* What was given back waits for the next server, or fails now if there will be none. */
static void ublk_abort_end(struct ublk_device *dev)
{
	mutex_lock(&dev->mutex);
	if (ublk_gates_are(dev, UBLK_GATE_FAIL))
		ublk_kick(dev);
	mutex_unlock(&dev->mutex);
}

/* A thread that died alone leaves the char device open, and so no release. */
static void ublk_abort_dead_tasks(struct ublk_device *dev)
{
	u16 i;

	for (i = 0; i < dev->nr_queues; i++) {
		ublk_abort_pending(dev->queues[i]);
		ublk_abort_owned(dev->queues[i]);
	}
	ublk_abort_end(dev);
}

void ublk_monitor_work(struct work_struct *work)
{
	struct ublk_device *dev = container_of(work, struct ublk_device, monitor_work);
	bool over, dead = false;

	mutex_lock(&dev->mutex);
	over = dev->canceling;
	/* Threads may die one after the other. */
	if (!dev->released)
		dead = ublk_has_dead_task(dev);
	if (!over && !dead && test_and_clear_bit(UBLK_DEV_FLUSHED, &dev->flags))
		dead = ublk_has_dying_ring(dev);
	mutex_unlock(&dev->mutex);

	if (dead) {
		ublk_cancel_begin(dev);
		ublk_cancel_all(dev);
		ublk_abort_dead_tasks(dev);
	}
}

/* ublk_watched_lock held. */
static void ublk_poll_device(struct ublk_device *dev)
{
	/* Against the order of locks. It can wait for the next poll. */
	if (!mutex_trylock(&dev->mutex))
		return;
	if (dev->canceling)
		list_del_init(&dev->watched);
	else if (ublk_has_dead_task(dev) || test_bit(UBLK_DEV_FLUSHED, &dev->flags))
		ublk_monitor_kick(dev);
	mutex_unlock(&dev->mutex);
}

static void ublk_poll(struct work_struct *work)
{
	struct ublk_device *dev, *next;

	mutex_lock(&ublk_watched_lock);
	list_for_each_entry_safe(dev, next, &ublk_watched, watched)
		ublk_poll_device(dev);
	if (!list_empty(&ublk_watched))
		queue_delayed_work(ublk_wq, to_delayed_work(work), msecs_to_jiffies(UBLK_POLL_MS));
	mutex_unlock(&ublk_watched_lock);
}

static DECLARE_DELAYED_WORK(ublk_poll_work, ublk_poll);

/* A first tag of a queue was fetched. dev->mutex held. */
void ublk_watch(struct ublk_device *dev)
{
	if (UBLK_CAN_CANCEL)
		return;
	mutex_lock(&ublk_watched_lock);
	if (list_empty(&dev->watched))
		list_add(&dev->watched, &ublk_watched);
	queue_delayed_work(ublk_wq, &ublk_poll_work, msecs_to_jiffies(UBLK_POLL_MS));
	mutex_unlock(&ublk_watched_lock);
}

static void ublk_unwatch(struct ublk_device *dev)
{
	mutex_lock(&ublk_watched_lock);
	list_del_init(&dev->watched);
	if (list_empty(&ublk_watched))
		cancel_delayed_work(&ublk_poll_work);
	mutex_unlock(&ublk_watched_lock);
}

/*
 * Look now. The caller holds the char device open, or a request of an open gate, so that the
 * release below comes later.
 */
void ublk_monitor_kick(struct ublk_device *dev)
{
	queue_work(ublk_wq, &dev->monitor_work);
}

/* Ready for the next server. dev->mutex held. */
static void ublk_queue_reset(struct ublk_queue *q)
{
	u16 tag;

	for (tag = 0; tag < q->depth; tag++) {
		struct ublk_io *io = &q->ios[tag];

		WARN_ON_ONCE(io->state == UBLK_IO_ACTIVE || io->state == UBLK_IO_QUEUED);
		memset(io, 0, sizeof(*io));
	}
	q->nr_fetched = 0;
	ublk_lanes_free(q);
}

/* The server is gone: the disk waits for the next one. False if it does not, or is being removed. */
static bool ublk_disk_survives(struct ublk_device *dev)
{
	bool survives;

	mutex_lock(&dev->mutex);
	survives = dev->disk && !dev->stopping && ublk_dev_recoverable(dev);
	if (survives)
		dev->info.state = ublk_dev_holds_requests(dev) ? UBLK_S_DEV_QUIESCED :
								 UBLK_S_DEV_FAIL_IO;
	mutex_unlock(&dev->mutex);
	return survives;
}

/* Stage 2: the char device was closed for the last time. */
void ublk_release_work(struct work_struct *work)
{
	struct ublk_device *dev = container_of(work, struct ublk_device, release_work);
	u16 i;

	ublk_cancel_begin(dev);
	mutex_lock(&dev->mutex);
	WRITE_ONCE(dev->released, true);
	mutex_unlock(&dev->mutex);
	ublk_unwatch(dev);
	cancel_work_sync(&dev->monitor_work);
	cancel_work_sync(&dev->cancel_work);
	/* Requests that no fetcher took, and tags that have no command of their own. */
	if (dev->queues[0]->batch)
		ublk_cancel_all(dev);
	for (i = 0; i < dev->nr_queues; i++)
		ublk_abort_owned(dev->queues[i]);
	ublk_abort_end(dev);
	if (dev->queues[0]->counts_refs) {
		ublk_refs_drain(dev);
		ublk_abort_end(dev);
	}
	ublk_shmem_clear(dev);
	if (!ublk_disk_survives(dev))
		ublk_disk_stop(dev);
	/* For ublk_timeout(), which may still look at a task. */
	synchronize_rcu();

	mutex_lock(&dev->mutex);
	for (i = 0; i < dev->nr_queues; i++)
		ublk_queue_reset(dev->queues[i]);
	dev->nr_ready = 0;
	dev->released = false;
	dev->canceling = false;
	/* Who waits for another server has not waited for this one. */
	ublk_waiters_end(dev, dev->server);
	put_pid(dev->server);
	dev->server = NULL;
	WRITE_ONCE(dev->mm, NULL);
	clear_bit(UBLK_DEV_UNTRUSTED, &dev->flags);
	clear_bit(UBLK_DEV_FLUSHED, &dev->flags);
	clear_bit_unlock(UBLK_DEV_OPEN, &dev->flags);
	mutex_unlock(&dev->mutex);
	wake_up_all(&dev->wait);

	ublk_dev_put(dev);
	/* The work may still be in this function: unloading waits for the workqueue. */
	module_put(THIS_MODULE);
}
