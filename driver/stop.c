// SPDX-License-Identifier: GPL-2.0
/*
 * STOP_DEV, TRY_STOP_DEV and DEL_DEV. They wait for I/O, and so for the server, which may be the
 * process that sent the command: when it dies, io_uring waits for the command before any file is
 * closed, and only that gives back what the server held. So the work is done by a kernel thread,
 * and who waits for it may be interrupted: it goes on all the same.
 */
#include <linux/blkdev.h>
#include <linux/module.h>

#include "compat/block.h"
#include "ublk_drv.h"

/* START_DEV and END_USER_RECOVERY, whether they wait for a server or for its zones, are over. */
static void ublk_end_starts(struct ublk_device *dev)
{
	mutex_lock(&dev->mutex);
	dev->stops++;
	ublk_waiters_end(dev, NULL);
	mutex_unlock(&dev->mutex);
}

/*
 * Remove the disk and end the commands of the server. With @only, nothing is done if that is not
 * the disk any more: somebody else stopped it, and maybe started another.
 */
static void ublk_stop_now(struct ublk_device *dev, const struct gendisk *only)
{
	mutex_lock(&dev->stop_lock);
	if (!only || READ_ONCE(dev->disk) == only) {
		ublk_end_starts(dev);
		ublk_disk_remove(dev);
		ublk_cancel_start(dev);
	}
	mutex_unlock(&dev->stop_lock);
	flush_work(&dev->cancel_work);
}

/* Remove the char device. The id stays taken until the last user is gone. */
static void ublk_dev_remove(struct ublk_device *dev)
{
	if (test_and_set_bit(UBLK_DEV_REMOVED, &dev->flags))
		return;
	cdev_device_del(&dev->cdev, &dev->cdev_dev);
	ublk_dev_put(dev);
}

void ublk_stop_work(struct work_struct *work)
{
	struct ublk_device *dev = container_of(work, struct ublk_device, stop_work);
	struct gendisk *only;
	u32 asked;
	bool any;

	mutex_lock(&dev->mutex);
	asked = dev->stop_asked;
	any = dev->stop_any;
	only = dev->stop_only;
	dev->stop_any = false;
	dev->stop_only = NULL;
	mutex_unlock(&dev->mutex);

	if (any || only)
		ublk_stop_now(dev, any ? NULL : only);
	if (only)
		put_device(disk_to_dev(only));
	if (test_bit(UBLK_DEV_DELETED, &dev->flags))
		ublk_dev_remove(dev);

	mutex_lock(&dev->mutex);
	WRITE_ONCE(dev->stop_done, asked);
	mutex_unlock(&dev->mutex);
	wake_up_all(&dev->wait);

	ublk_dev_put(dev);
	/* The work may still be in this function: unloading waits for the workqueue. */
	module_put(THIS_MODULE);
}

/*
 * Have the device stopped, or with @only that disk alone. 0 when that is done, -EINTR if it will be.
 * May be called by several at once.
 */
static int ublk_stop_ask(struct ublk_device *dev, struct gendisk *only)
{
	struct gendisk *old = NULL;
	u32 ticket;

	mutex_lock(&dev->mutex);
	ticket = ++dev->stop_asked;
	if (!only) {
		dev->stop_any = true;
	} else if (dev->disk == only && dev->stop_only != only) {
		/* What was asked for before is gone. */
		old = dev->stop_only;
		get_device(disk_to_dev(only));
		dev->stop_only = only;
	}
	mutex_unlock(&dev->mutex);
	if (old)
		put_device(disk_to_dev(old));

	/* The work outlives the command and its hold on dev and on the module. */
	ublk_dev_get(dev);
	__module_get(THIS_MODULE);
	if (!queue_work(ublk_wait_wq, &dev->stop_work)) {
		/* It has not begun yet, and will see the ticket. */
		ublk_dev_put(dev);
		module_put(THIS_MODULE);
	}
	if (wait_event_interruptible(dev->wait, (s32)(READ_ONCE(dev->stop_done) - ticket) >= 0))
		return -EINTR;
	return 0;
}

int ublk_dev_stop(struct ublk_device *dev)
{
	return ublk_stop_ask(dev, NULL);
}

/* TRY_STOP_DEV: stop if nobody has the disk open. */
int ublk_dev_stop_unused(struct ublk_device *dev)
{
	struct gendisk *disk = ublk_disk_get(dev);
	int err;

	if (!disk)
		return -ENODEV;
	err = ublk_disk_close_unused(disk) ? ublk_stop_ask(dev, disk) : -EBUSY;
	if (!err) {
		mutex_lock(&dev->mutex);
		/* Somebody else stopped it, and started another. */
		if (dev->disk && dev->disk != disk)
			err = -ENODEV;
		mutex_unlock(&dev->mutex);
	}
	put_device(disk_to_dev(disk));
	return err;
}

/* As ublk_dev_stop(), and remove the char device. */
int ublk_dev_delete(struct ublk_device *dev)
{
	set_bit(UBLK_DEV_DELETED, &dev->flags);
	return ublk_dev_stop(dev);
}

/* For unloading: nothing is open, so there is nothing to wait for. */
void ublk_dev_delete_now(struct ublk_device *dev)
{
	set_bit(UBLK_DEV_DELETED, &dev->flags);
	ublk_stop_now(dev, NULL);
	ublk_dev_remove(dev);
}
