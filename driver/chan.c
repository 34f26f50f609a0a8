// SPDX-License-Identifier: GPL-2.0
/* /dev/ublkcN: the descriptors and the commands of the server. */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/pid.h>
#include <linux/sched.h>

#include "compat/misc.h"
#include "ublk_drv.h"

static int ublk_chan_open(struct inode *inode, struct file *file)
{
	struct ublk_device *dev = container_of(inode->i_cdev, struct ublk_device, cdev);

	if (test_and_set_bit(UBLK_DEV_OPEN, &dev->flags))
		return -EBUSY;
	if (test_bit(UBLK_DEV_DELETED, &dev->flags)) {
		clear_bit(UBLK_DEV_OPEN, &dev->flags);
		return -ENODEV;
	}
	mutex_lock(&dev->mutex);
	dev->server = get_task_pid(current, PIDTYPE_TGID);
	mutex_unlock(&dev->mutex);
	/* The file pins the cdev, which pins dev. */
	file->private_data = dev;
	return 0;
}

/* Last close. No command and no mapping is left, since each of them holds the file. */
static int ublk_chan_release(struct inode *inode, struct file *file)
{
	struct ublk_device *dev = file->private_data;

	/* The work outlives the file and its hold on dev and on the module. */
	ublk_dev_get(dev);
	__module_get(THIS_MODULE);
	queue_work(ublk_wq, &dev->release_work);
	return 0;
}

/* A descriptor to the file is closed, maybe because its process dies. */
static int ublk_chan_flush(struct file *file, fl_owner_t id)
{
	struct ublk_device *dev = file->private_data;

	if (!UBLK_CAN_CANCEL) {
		set_bit(UBLK_DEV_FLUSHED, &dev->flags);
		ublk_monitor_kick(dev);
	}
	return 0;
}

/* The mapping goes, maybe with its process. The file is still held. */
static void ublk_vma_close(struct vm_area_struct *vma)
{
	if (!UBLK_CAN_CANCEL)
		ublk_monitor_kick(vma->vm_file->private_data);
}

static const struct vm_operations_struct ublk_vm_ops = {
	.close	= ublk_vma_close,
};

/*
 * Descriptors of queue N are at offset N * (bytes of UBLK_MAX_QUEUE_DEPTH descriptors), and are
 * mapped whole, read-only, into one process.
 */
static int ublk_chan_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct ublk_device *dev = file->private_data;
	size_t bytes = vma->vm_end - vma->vm_start;
	size_t stride = ublk_queue_map_bytes(dev, UBLK_MAX_QUEUE_DEPTH);
	u64 offset = (u64)vma->vm_pgoff << PAGE_SHIFT;
	struct mm_struct *owner;
	struct ublk_queue *q;
	u64 id;

	if (vma->vm_flags & VM_WRITE)
		return -EPERM;
	/* No overflow: more pages than the queues have are refused before the shift counts. */
	if (vma->vm_pgoff >= (u64)dev->nr_queues * (stride >> PAGE_SHIFT))
		return -EINVAL;
	id = div64_u64(offset, stride);
	if (offset != id * stride || bytes != ublk_queue_map_bytes(dev, dev->depth))
		return -EINVAL;

	owner = cmpxchg(&dev->mm, NULL, current->mm);
	if (owner && owner != current->mm)
		return -EBUSY;

	q = dev->queues[id];
	/* mprotect() must not add writing; a forked child must not keep the device. */
	ublk_vm_flags_mod(vma, VM_DONTCOPY, VM_MAYWRITE);
	vma->vm_ops = &ublk_vm_ops;
	return remap_pfn_range(vma, vma->vm_start, virt_to_phys(q->descs) >> PAGE_SHIFT, bytes,
			       vma->vm_page_prot);
}

/* All tags of a queue are there. dev->mutex held. */
void ublk_queue_ready(struct ublk_device *dev)
{
	WRITE_ONCE(dev->nr_ready, dev->nr_ready + 1);
	if (dev->nr_ready == dev->nr_queues)
		wake_up_all(&dev->wait);
}

static int ublk_fetch_locked(struct ublk_device *dev, struct ublk_queue *q, struct ublk_io *io,
			     struct io_uring_cmd *cmd, u64 addr, unsigned int issue_flags)
{
	struct ublk_lane *lane;
	int buffer = 0;

	lockdep_assert_held(&dev->mutex);
	if (dev->canceling)
		return UBLK_IO_RES_ABORT;
	if (q->nr_fetched == q->depth)
		return -EBUSY;
	if (io->state != UBLK_IO_IDLE)
		return -EINVAL;
	if (ublk_uring_ring_is_polled(cmd))
		return -EOPNOTSUPP;
	if (q->copies ? !addr && !q->asks_for_buffer : addr)
		return -EINVAL;
	if (q->registers) {
		buffer = ublk_auto_parse(cmd);
		if (buffer < 0)
			return buffer;
	}

	lane = ublk_lane_get(q, current, ublk_uring_ring(cmd));
	if (!lane)
		return -ENOMEM;
	if (!capable(CAP_SYS_ADMIN))
		set_bit(UBLK_DEV_UNTRUSTED, &dev->flags);

	io->lane = lane;
	io->task = current;
	io->addr = addr;
	ublk_auto_set(io, buffer);
	ublk_uring_mark_cancelable(cmd, issue_flags);
	ublk_publish(q, io, cmd);

	if (!q->nr_fetched++)
		ublk_watch(dev);
	if (q->nr_fetched == q->depth)
		ublk_queue_ready(dev);
	return -EIOCBQUEUED;
}

static int ublk_fetch(struct ublk_device *dev, struct ublk_queue *q, struct ublk_io *io,
		      struct io_uring_cmd *cmd, u64 addr, unsigned int issue_flags)
{
	int ret;

	mutex_lock(&dev->mutex);
	ret = ublk_fetch_locked(dev, q, io, cmd, addr, issue_flags);
	mutex_unlock(&dev->mutex);
	return ret;
}

/*
 * How much of a finished request is really done, given the server's result and buffer, or where it
 * was appended. For every I/O, so inlined here; batch.c calls it.
 */
__always_inline u32 ublk_bytes_done(struct ublk_queue *q, struct ublk_io *io, struct request *req,
				    int res, u64 addr)
{
	u32 bytes;

	switch (req_op(req)) {
	case REQ_OP_READ:
		bytes = min_t(u32, res, io->bytes);
		if (q->copies && !(q->shares_memory && ublk_rq(req)->shmem))
			bytes = ublk_copy_from_server(req, addr, bytes);
		break;
	case REQ_OP_WRITE:
		bytes = min_t(u32, res, io->bytes);
		break;
	case REQ_OP_ZONE_APPEND:
		/* Where the rest of it would go is not known: all or nothing. */
		if (res < io->bytes)
			return 0;
		req->__sector = addr;
		return io->bytes;
	default:
		return blk_rq_bytes(req);
	}
	/* Requests continue at a block; what is done of the next block has to be done again. */
	if (unlikely(bytes != io->bytes))
		bytes = round_down(bytes, queue_logical_block_size(req->q));
	return bytes;
}

/* The server may go on with another ring: its requests have to go there. */
static int ublk_follow_ring(struct ublk_device *dev, struct ublk_queue *q, struct ublk_io *io,
			    struct io_uring_cmd *cmd)
{
	void *ring = ublk_uring_ring(cmd);
	struct ublk_lane *lane;

	if (likely(io->lane->ring == ring))
		return 0;
	if (ublk_uring_ring_is_polled(cmd))
		return -EOPNOTSUPP;
	mutex_lock(&dev->mutex);
	lane = ublk_lane_get(q, current, ring);
	mutex_unlock(&dev->mutex);
	if (!lane)
		return -ENOMEM;
	io->lane = lane;
	return 0;
}

/* The buffer for the tag's next request, or where an appended one went. */
static bool ublk_commit_addr_is_right(const struct ublk_queue *q, const struct request *req,
				      u64 addr)
{
	if (q->copies)
		return addr || (q->asks_for_buffer && req_op(req) != REQ_OP_READ);
	return !addr || req_op(req) == REQ_OP_ZONE_APPEND;
}

static int ublk_commit(struct ublk_device *dev, struct ublk_queue *q, struct ublk_io *io,
		       struct io_uring_cmd *cmd, int res, u64 addr, unsigned int issue_flags)
{
	struct request *req;
	void *old_ring;
	int buffer = 0;
	u32 bytes = 0;
	int err;

	if (unlikely(io->task != current))
		return -EINVAL;
	if (unlikely(io->state != UBLK_IO_OWNED && io->state != UBLK_IO_WANT_DATA))
		return -EBUSY;
	req = io->req;
	if (unlikely(!ublk_commit_addr_is_right(q, req, addr)))
		return -EINVAL;
	if (q->registers) {
		buffer = ublk_auto_parse(cmd);
		if (buffer < 0)
			return buffer;
	}
	old_ring = io->lane->ring;
	err = ublk_follow_ring(dev, q, io, cmd);
	if (unlikely(err))
		return err;
	if (q->registers) {
		ublk_auto_unregister(io, old_ring, cmd, issue_flags);
		ublk_auto_set(io, buffer);
	}

	if (likely(res >= 0))
		bytes = ublk_bytes_done(q, io, req, res, addr);
	io->addr = q->copies ? addr : 0;
	/* The tag has to be armed before it can be free for another request. */
	ublk_uring_mark_cancelable(cmd, issue_flags);
	ublk_arm(q, io, cmd, issue_flags);
	ublk_end(q, io, res, bytes, req);
	return -EIOCBQUEUED;
}

static int ublk_get_data(struct ublk_device *dev, struct ublk_queue *q, struct ublk_io *io,
			 struct io_uring_cmd *cmd, u64 addr, unsigned int issue_flags)
{
	int err;

	if (io->task != current || !addr)
		return -EINVAL;
	if (io->state != UBLK_IO_WANT_DATA)
		return -EBUSY;
	err = ublk_follow_ring(dev, q, io, cmd);
	if (err)
		return err;
	io->addr = addr;
	/* If the data can't be copied the command waits for the request to come again. */
	ublk_uring_mark_cancelable(cmd, issue_flags);
	ublk_hand_over(q, io, io->req, cmd, issue_flags);
	return -EIOCBQUEUED;
}

static int ublk_chan_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct ublk_device *dev = cmd->file->private_data;
	const struct ublksrv_io_cmd *p = ublk_uring_payload(cmd);
	u16 qid = READ_ONCE(p->q_id);
	u16 tag = READ_ONCE(p->tag);
	int res = READ_ONCE(p->result);
	u64 addr = READ_ONCE(p->addr);
	u32 op = cmd->cmd_op;
	struct ublk_queue *q;
	struct ublk_io *io;

	if (unlikely(_IOC_TYPE(op) != 'u' && _IOC_TYPE(op) != 0))
		return -EOPNOTSUPP;
	if (unlikely(_IOC_NR(op) >= _IOC_NR(UBLK_U_IO_PREP_IO_CMDS)))
		return dev->queues[0]->batch ? ublk_batch_cmd(dev, cmd, issue_flags) : -EOPNOTSUPP;
	if (unlikely(qid >= dev->nr_queues))
		return -EINVAL;
	q = dev->queues[qid];
	if (unlikely(tag >= q->depth))
		return -EINVAL;
	io = &q->ios[tag];

	/* The command of every I/O comes first. */
	if (likely(_IOC_NR(op) == UBLK_IO_COMMIT_AND_FETCH_REQ && !q->batch))
		return ublk_commit(dev, q, io, cmd, res, addr, issue_flags);
	switch (_IOC_NR(op)) {
	case _IOC_NR(UBLK_U_IO_REGISTER_IO_BUF):
		return ublk_buffer_register(q, io, cmd, addr, issue_flags);
	case _IOC_NR(UBLK_U_IO_UNREGISTER_IO_BUF):
		return ublk_buffer_unregister(q, cmd, addr, issue_flags);
	}
	if (unlikely(q->batch))
		return -EOPNOTSUPP;

	switch (_IOC_NR(op)) {
	case UBLK_IO_FETCH_REQ:
		return ublk_fetch(dev, q, io, cmd, addr, issue_flags);
	case UBLK_IO_NEED_GET_DATA:
		return ublk_get_data(dev, q, io, cmd, addr, issue_flags);
	default:
		return -EOPNOTSUPP;
	}
}

/* A command that io_uring started in one of its workers, now in the task that submitted it. */
UBLK_URING_TASK_WORK(ublk_chan_cmd_in_task)
{
	int ret = UBLK_IO_RES_ABORT;

	if (current == ublk_uring_task(cmd) && !(current->flags & PF_EXITING))
		ret = ublk_chan_cmd(cmd, issue_flags);
	if (ret != -EIOCBQUEUED)
		ublk_uring_done(cmd, ret, issue_flags);
}

/* The ring goes away. The command is armed, or was a moment ago. */
static void ublk_chan_cancel(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct ublk_device *dev = cmd->file->private_data;

	ublk_cancel_begin(dev);
	if (dev->queues[0]->batch)
		ublk_batch_cancel_one(cmd, issue_flags);
	else
		ublk_cancel_io(ublk_cmd(cmd)->io, issue_flags);
}

static int ublk_chan_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	if (unlikely(issue_flags & UBLK_URING_F_CANCEL)) {
		ublk_chan_cancel(cmd, issue_flags);
		return 0;
	}
	/* A polled ring would wait for completions that nobody polls for. */
	if (unlikely(issue_flags & IO_URING_F_IOPOLL))
		return -EOPNOTSUPP;
	if (unlikely(issue_flags & IO_URING_F_UNLOCKED)) {
		ublk_uring_run_in_task(cmd, ublk_chan_cmd_in_task);
		return -EIOCBQUEUED;
	}
	return ublk_chan_cmd(cmd, issue_flags);
}

const struct file_operations ublk_chan_fops = {
	.owner		= THIS_MODULE,
	.open		= ublk_chan_open,
	.flush		= ublk_chan_flush,
	.release	= ublk_chan_release,
	.mmap		= ublk_chan_mmap,
	.read_iter	= ublk_chan_read_iter,
	.write_iter	= ublk_chan_write_iter,
	.uring_cmd	= ublk_chan_uring_cmd,
};
