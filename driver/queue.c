// SPDX-License-Identifier: GPL-2.0
/* Queues, lanes, and cancelling the command of a tag. */
#include <linux/mm.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "ublk_drv.h"

/* Bytes of @depth descriptors as they are mapped: whole pages. */
size_t ublk_queue_map_bytes(const struct ublk_device *dev, u16 depth)
{
	return PAGE_ALIGN((size_t)depth * dev->desc_bytes);
}

/* The node of the first CPU that sends requests to the queue. */
static int ublk_queue_node(const struct ublk_device *dev, u16 id)
{
	const struct blk_mq_queue_map *map = &dev->tag_set.map[HCTX_TYPE_DEFAULT];
	unsigned int cpu;

	for_each_possible_cpu(cpu)
		if (map->mq_map[cpu] == id)
			return cpu_to_node(cpu);
	return NUMA_NO_NODE;
}

struct ublk_queue *ublk_queue_create(struct ublk_device *dev, u16 id)
{
	int node = ublk_queue_node(dev, id);
	struct ublk_queue *q;
	struct page *page;

	q = kvzalloc_node(struct_size(q, ios, dev->depth), GFP_KERNEL, node);
	if (!q)
		return NULL;
	q->descs_order = get_order(ublk_queue_map_bytes(dev, dev->depth));
	page = alloc_pages_node(node, GFP_KERNEL | __GFP_ZERO, q->descs_order);
	if (!page) {
		kvfree(q);
		return NULL;
	}
	q->descs = page_address(page);
	q->desc_bytes = dev->desc_bytes;
	q->dev = dev;
	q->id = id;
	q->depth = dev->depth;
	q->copies = !(dev->flags_granted & UBLK_F_OWN_ACCESS);
	q->counts_refs = dev->flags_granted & UBLK_F_OWN_ACCESS;
	q->asks_for_buffer = dev->flags_granted & UBLK_F_NEED_GET_DATA && q->copies;
	q->registers = dev->flags_granted & UBLK_F_AUTO_BUF_REG;
	q->protects = dev->flags_granted & UBLK_F_INTEGRITY;
	q->shares_memory = dev->flags_granted & UBLK_F_SHMEM_ZC;
	q->gate = UBLK_GATE_FAIL;
	if (dev->flags_granted & UBLK_F_BATCH_IO) {
		q->batch = ublk_batch_create();
		if (!q->batch) {
			ublk_queue_destroy(q);
			return NULL;
		}
	}
	return q;
}

void ublk_queue_destroy(struct ublk_queue *q)
{
	if (!q)
		return;
	ublk_lanes_free(q);
	ublk_batch_destroy(q->batch);
	free_pages((unsigned long)q->descs, q->descs_order);
	kvfree(q);
}

/* The lane of a task and its ring, made at the first call. NULL without memory. dev->mutex held. */
struct ublk_lane *ublk_lane_get(struct ublk_queue *q, struct task_struct *task, void *ring)
{
	struct ublk_lane *lane;

	lockdep_assert_held(&q->dev->mutex);
	for (lane = q->lanes; lane; lane = lane->next)
		if (lane->task == task && lane->ring == ring)
			return lane;

	lane = kzalloc_node(sizeof(*lane), GFP_KERNEL, numa_node_id());
	if (!lane)
		return NULL;
	init_llist_head(&lane->pending);
	lane->task = get_task_struct(task);
	lane->ring = ring;
	lane->queue = q;
	lane->next = q->lanes;
	q->lanes = lane;
	return lane;
}

/* When no tag points to a lane any more. */
void ublk_lanes_free(struct ublk_queue *q)
{
	struct ublk_lane *lane, *next;

	for (lane = q->lanes; lane; lane = next) {
		next = lane->next;
		WARN_ON_ONCE(!llist_empty(&lane->pending));
		put_task_struct(lane->task);
		kfree(lane);
	}
	q->lanes = NULL;
}

/* A command was armed while the gate was not open. False if it is closed. */
bool ublk_published_late(struct ublk_queue *q, u8 gate)
{
	if (gate != UBLK_GATE_PAUSE)
		return false;
	/* QUIESCE_DEV waits for an idle tag. */
	wake_up_all(&q->dev->wait);
	return true;
}

/*
 * Complete the command of an ACTIVE tag with ABORT, once. The queue's gate must have been closed
 * for a grace period, or no request may ever have come (before START_DEV). Leaves other tags alone:
 * QUEUED ones still have task work under way, the rest have no command.
 */
bool ublk_cancel_io(struct ublk_io *io, unsigned int issue_flags)
{
	struct io_uring_cmd *cmd;

	/* Mostly not ACTIVE: keep the line shared. */
	if (READ_ONCE(io->state) != UBLK_IO_ACTIVE ||
	    cmpxchg(&io->state, UBLK_IO_ACTIVE, UBLK_IO_CANCELED) != UBLK_IO_ACTIVE)
		return false;
	cmd = io->cmd;
	io->cmd = NULL;
	if (cmd)
		ublk_uring_done(cmd, UBLK_IO_RES_ABORT, issue_flags);
	return true;
}
