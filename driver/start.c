// SPDX-License-Identifier: GPL-2.0
/*
 * A server takes over: START_DEV for a new disk, START_ and END_USER_RECOVERY for a disk whose
 * server is gone. START_DEV and END_USER_RECOVERY wait until every tag was fetched.
 */
#include <linux/pid.h>
#include <linux/sched.h>

#include "ublk_drv.h"
#include "trace.h"

/* Is it the process that has the char device open? Numbers are those of the caller's namespace. */
static bool ublk_is_server(const struct ublk_device *dev, pid_t nr)
{
	bool same;

	rcu_read_lock();
	same = dev->server && find_vpid(nr) == dev->server;
	rcu_read_unlock();
	return same;
}

/* How a server takes over. Both are called with dev->mutex held. */
struct ublk_takeover {
	int	(*check)(struct ublk_device *dev);	/* can it be waited for? */
	int	(*take)(struct ublk_device *dev);	/* everything is there */
};

/* -EAGAIN: the server is gone again. dev->mutex held. */
static int ublk_take_over_ready(struct ublk_device *dev, const struct ublk_takeover *how,
				pid_t server, u32 stops)
{
	int err;

	if (dev->stops != stops || test_bit(UBLK_DEV_DELETED, &dev->flags))
		return -EBUSY;
	err = how->check(dev);
	if (err)
		return err;
	if (dev->nr_ready != dev->nr_queues || dev->canceling)
		return -EAGAIN;
	if (!ublk_is_server(dev, server))
		return -EINVAL;
	return how->take(dev);
}

static bool ublk_can_take_over(struct ublk_device *dev, u32 stops)
{
	return (READ_ONCE(dev->nr_ready) == dev->nr_queues && !READ_ONCE(dev->canceling)) ||
	       READ_ONCE(dev->stops) != stops || test_bit(UBLK_DEV_DELETED, &dev->flags);
}

static int ublk_take_over(struct ublk_device *dev, const struct ublk_takeover *how, pid_t server)
{
	u32 stops;
	int err;

	if (server <= 0)
		return -EINVAL;
	mutex_lock(&dev->mutex);
	stops = dev->stops;
	err = how->check(dev);
	mutex_unlock(&dev->mutex);
	if (err)
		return err;

	do {
		if (wait_event_interruptible(dev->wait, ublk_can_take_over(dev, stops)))
			return -EINTR;
		mutex_lock(&dev->mutex);
		err = ublk_take_over_ready(dev, how, server, stops);
		mutex_unlock(&dev->mutex);
	} while (err == -EAGAIN);
	return err;
}

static int ublk_start_check(struct ublk_device *dev)
{
	if (dev->stopping || dev->starting)
		return -EBUSY;
	if (dev->disk)
		return -EEXIST;
	if (!(dev->params.types & UBLK_PARAM_TYPE_BASIC))
		return -EINVAL;
	return 0;
}

int ublk_ctrl_start(struct ublk_device *dev, struct ublk_ctrl *c)
{
	static const struct ublk_takeover start = { ublk_start_check, ublk_disk_start };

	return ublk_take_over(dev, &start, (pid_t)c->cmd.data[0]);
}

static bool ublk_waits_for_server(const struct ublk_device *dev)
{
	return dev->disk && !dev->stopping && (dev->info.state == UBLK_S_DEV_QUIESCED ||
					       dev->info.state == UBLK_S_DEV_FAIL_IO);
}

/* The tags were reset when the last server went: all there is to do is to say whether it has. */
int ublk_ctrl_start_recovery(struct ublk_device *dev, struct ublk_ctrl *c)
{
	int err = 0;

	if (!ublk_dev_recoverable(dev))
		return -EINVAL;
	mutex_lock(&dev->mutex);
	if (!ublk_waits_for_server(dev) || test_bit(UBLK_DEV_OPEN, &dev->flags))
		err = -EBUSY;
	mutex_unlock(&dev->mutex);
	return err;
}

static int ublk_recovery_check(struct ublk_device *dev)
{
	return ublk_waits_for_server(dev) ? 0 : -EBUSY;
}

static int ublk_recovery_take(struct ublk_device *dev)
{
	dev->info.state = UBLK_S_DEV_LIVE;
	atomic_long_inc(&dev->counters.recovered);
	trace_ublk_recover(dev->id, pid_nr(dev->server));
	ublk_gates_open(dev);
	return 0;
}

int ublk_ctrl_end_recovery(struct ublk_device *dev, struct ublk_ctrl *c)
{
	static const struct ublk_takeover recovery = { ublk_recovery_check, ublk_recovery_take };

	if (!ublk_dev_recoverable(dev))
		return -EINVAL;
	return ublk_take_over(dev, &recovery, (pid_t)c->cmd.data[0]);
}
