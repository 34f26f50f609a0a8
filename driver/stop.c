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

/* Remove the disk and end the commands of the server. */
static void ublk_stop_now(struct ublk_device *dev)
{
	ublk_disk_stop(dev);
	ublk_cancel_begin(dev);
	ublk_cancel_all(dev);
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
	u32 asked;

	mutex_lock(&dev->mutex);
	asked = dev->stop_asked;
	mutex_unlock(&dev->mutex);
	ublk_stop_now(dev);
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

/* 0 when the device is stopped, -EINTR if it will be. May be called by several at once. */
int ublk_dev_stop(struct ublk_device *dev)
{
	u32 ticket;

	mutex_lock(&dev->mutex);
	ticket = ++dev->stop_asked;
	mutex_unlock(&dev->mutex);

	/* The work outlives the command and its hold on dev and on the module. */
	ublk_dev_get(dev);
	__module_get(THIS_MODULE);
	if (!queue_work(ublk_stop_wq, &dev->stop_work)) {
		/* It has not begun yet, and will see the ticket. */
		ublk_dev_put(dev);
		module_put(THIS_MODULE);
	}
	if (wait_event_interruptible(dev->wait, (s32)(READ_ONCE(dev->stop_done) - ticket) >= 0))
		return -EINTR;
	return 0;
}

/* TRY_STOP_DEV: stop if nobody has the disk open. */
int ublk_dev_stop_unused(struct ublk_device *dev)
{
	struct gendisk *disk = ublk_disk_get(dev);
	int err = 0;

	if (!disk)
		return -ENODEV;
	if (mutex_lock_interruptible(&disk->open_mutex)) {
		err = -EINTR;
		goto put;
	}
	if (disk_openers(disk))
		err = -EBUSY;
	else
		WRITE_ONCE(dev->closed_disk, disk);
	mutex_unlock(&disk->open_mutex);
	if (!err) {
		err = ublk_dev_stop(dev);
		mutex_lock(&dev->mutex);
		/* Else it still goes, and this with it. */
		if (dev->disk != disk)
			cmpxchg(&dev->closed_disk, disk, NULL);
		mutex_unlock(&dev->mutex);
	}
put:
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
	ublk_stop_now(dev);
	ublk_dev_remove(dev);
}
