// SPDX-License-Identifier: GPL-2.0
/*
 * QUIESCE_DEV: a planned change of servers. Requests wait from now on; when each queue has an idle
 * tag, its command tells the server that it is over. What the server still holds it can finish.
 * The device is QUIESCED when the server has closed the char device.
 */
#include "ublk_drv.h"

/* Can the server be told? */
static bool ublk_queue_has_idle(struct ublk_queue *q)
{
	u16 tag;

	if (q->batch)
		return true;
	for (tag = 0; tag < q->depth; tag++)
		if (smp_load_acquire(&q->ios[tag].state) == UBLK_IO_ACTIVE)
			return true;
	return false;
}

static bool ublk_quiesce_can_go(struct ublk_device *dev)
{
	u16 i;

	/* Somebody else decided already. */
	if (READ_ONCE(dev->queues[0]->gate) != UBLK_GATE_PAUSE)
		return true;
	for (i = 0; i < dev->nr_queues; i++)
		if (!ublk_queue_has_idle(dev->queues[i]))
			return false;
	return true;
}

/* 1: nothing to do. */
static int ublk_quiesce_begin(struct ublk_device *dev)
{
	int ret = 0;

	mutex_lock(&dev->mutex);
	if (!dev->disk || dev->stopping)
		ret = -ENODEV;
	else if (dev->info.state != UBLK_S_DEV_LIVE || dev->canceling)
		ret = 1;
	else
		ublk_gates_pause(dev);
	mutex_unlock(&dev->mutex);
	return ret;
}

/* @waited as wait_event_interruptible_timeout() returns it. */
static int ublk_quiesce_end(struct ublk_device *dev, long waited)
{
	bool paused;
	int err = 0;

	mutex_lock(&dev->mutex);
	paused = ublk_gates_are(dev, UBLK_GATE_PAUSE);
	if (!paused)
		/* Stopped, or another QUIESCE_DEV gave up; else the server is gone, as wanted. */
		err = !dev->disk || dev->stopping ? -ENODEV :
		      ublk_gates_are(dev, UBLK_GATE_OPEN) ? -EBUSY : 0;
	else if (waited <= 0)
		err = waited ? -EINTR : -EBUSY;

	if (paused && err) {
		ublk_gates_open(dev);
	} else if (paused) {
		dev->canceling = true;
		ublk_gates_close(dev);
		queue_work(ublk_wq, &dev->cancel_work);
	}
	mutex_unlock(&dev->mutex);
	wake_up_all(&dev->wait);
	flush_work(&dev->cancel_work);
	return err;
}

int ublk_ctrl_quiesce(struct ublk_device *dev, struct ublk_ctrl *c)
{
	u64 timeout_ms = c->cmd.data[0];
	long timeout = MAX_SCHEDULE_TIMEOUT;
	int ret;

	if (!(dev->flags_granted & UBLK_F_QUIESCE))
		return -EOPNOTSUPP;
	if (timeout_ms)
		timeout = msecs_to_jiffies(min_t(u64, timeout_ms, INT_MAX));

	ret = ublk_quiesce_begin(dev);
	if (ret)
		return ret > 0 ? 0 : ret;
	return ublk_quiesce_end(dev, wait_event_interruptible_timeout(dev->wait,
					ublk_quiesce_can_go(dev), timeout));
}
