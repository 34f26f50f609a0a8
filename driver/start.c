// SPDX-License-Identifier: GPL-2.0
/*
 * A server takes over: START_DEV for a new disk, START_ and END_USER_RECOVERY for a disk whose
 * server is gone. START_DEV and END_USER_RECOVERY wait until every tag was fetched.
 */
#include <linux/pid.h>

#include "ublk_drv.h"
#include "trace.h"

/* How a server takes over. Both are called with dev->mutex held. */
struct ublk_takeover {
	int	(*check)(struct ublk_device *dev);	/* can it be waited for? */
	int	(*take)(struct ublk_device *dev);	/* everything is there */
};

/* Who waits for a server to have every tag. */
struct ublk_waiter {
	struct list_head	link;	/* dev->waiters */
	struct pid		*server;
	bool			over;	/* there is nothing to wait for any more */
};

/* Those that wait for @server, or all, need not wait any more. dev->mutex held. */
void ublk_waiters_end(struct ublk_device *dev, const struct pid *server)
{
	struct ublk_waiter *w;

	lockdep_assert_held(&dev->mutex);
	list_for_each_entry(w, &dev->waiters, link)
		if (!server || w->server == server)
			WRITE_ONCE(w->over, true);
	wake_up_all(&dev->wait);
}

/* -EAGAIN: the server is gone again. dev->mutex held. */
static int ublk_take_over_ready(struct ublk_device *dev, const struct ublk_takeover *how,
				const struct ublk_waiter *w)
{
	int err;

	if (w->over || test_bit(UBLK_DEV_DELETED, &dev->flags))
		return -EBUSY;
	err = how->check(dev);
	if (err)
		return err;
	if (dev->nr_ready != dev->nr_queues || dev->canceling)
		return -EAGAIN;
	if (w->server != dev->server)
		return -EINVAL;
	return how->take(dev);
}

static bool ublk_can_take_over(struct ublk_device *dev, const struct ublk_waiter *w)
{
	return (READ_ONCE(dev->nr_ready) == dev->nr_queues && !READ_ONCE(dev->canceling)) ||
	       READ_ONCE(w->over) || test_bit(UBLK_DEV_DELETED, &dev->flags);
}

/* dev->mutex held, but not while it waits. */
static int ublk_wait_and_take_over(struct ublk_device *dev, const struct ublk_takeover *how,
				   const struct ublk_waiter *w)
{
	int err = how->check(dev);

	if (err)
		return err;
	do {
		mutex_unlock(&dev->mutex);
		err = wait_event_interruptible(dev->wait, ublk_can_take_over(dev, w));
		mutex_lock(&dev->mutex);
		if (err)
			return -EINTR;
		err = ublk_take_over_ready(dev, how, w);
	} while (err == -EAGAIN);
	return err;
}

/* @server is a number of the caller's namespace: of the process that has the char device open. */
static int ublk_take_over(struct ublk_device *dev, const struct ublk_takeover *how, pid_t server)
{
	struct ublk_waiter w = { .server = find_get_pid(server) };
	int err;

	if (!w.server)
		return -EINVAL;
	mutex_lock(&dev->mutex);
	list_add(&w.link, &dev->waiters);
	err = ublk_wait_and_take_over(dev, how, &w);
	list_del(&w.link);
	mutex_unlock(&dev->mutex);
	put_pid(w.server);
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
