// SPDX-License-Identifier: GPL-2.0
/* /dev/ublkbN: from START_DEV until the disk is stopped. */
#include <linux/blkdev.h>
#include <linux/module.h>

#include "ublk_drv.h"

/* After the last user of a stopped disk. */
static void ublk_disk_free(struct gendisk *disk)
{
	ublk_dev_put(disk->private_data);
}

static const struct block_device_operations ublk_disk_ops = {
	.owner		= THIS_MODULE,
	.free_disk	= ublk_disk_free,
};

/* Make the disk visible. Every tag is fetched, dev->mutex is held. */
int ublk_disk_start(struct ublk_device *dev)
{
	const struct ublk_param_basic *basic = &dev->params.basic;
	struct ublk_disk_limits lim;
	struct gendisk *disk;
	int err;

	lockdep_assert_held(&dev->mutex);
	ublk_params_to_limits(&dev->params, &lim);
	disk = ublk_alloc_disk(&dev->tag_set, &lim, NULL);
	if (IS_ERR(disk))
		return PTR_ERR(disk);

	snprintf(disk->disk_name, sizeof(disk->disk_name), "ublkb%u", dev->id);
	disk->fops = &ublk_disk_ops;
	disk->private_data = dev;
	set_capacity(disk, basic->dev_sectors);
	if (basic->attrs & UBLK_ATTR_READ_ONLY)
		set_disk_ro(disk, true);
	/* Reading the partition table needs the server: not here, see ublk_scan_work(). */
	set_bit(GD_SUPPRESS_PART_SCAN, &disk->state);

	/* Given back by ublk_disk_free(), which is only called for a disk that was added. */
	ublk_dev_get(dev);
	err = add_disk(disk);
	if (err) {
		put_disk(disk);
		ublk_dev_put(dev);
		return err;
	}
	dev->disk = disk;
	dev->info.state = UBLK_S_DEV_LIVE;
	/* What a server that we do not trust writes into a partition table is not parsed. */
	if (!test_bit(UBLK_DEV_UNTRUSTED, &dev->flags))
		queue_work(ublk_wq, &dev->scan_work);
	return 0;
}

/* Look for partitions, outside of any lock but the disk's own. Ends when the disk is stopped. */
void ublk_scan_work(struct work_struct *work)
{
	struct ublk_device *dev = container_of(work, struct ublk_device, scan_work);
	struct gendisk *disk;

	mutex_lock(&dev->mutex);
	disk = dev->disk;
	mutex_unlock(&dev->mutex);
	if (!disk)
		return;

	/* The disk is not put before ublk_disk_stop() has waited for us. */
	clear_bit(GD_SUPPRESS_PART_SCAN, &disk->state);
	mutex_lock(&disk->open_mutex);
	bdev_disk_changed(disk, false);
	mutex_unlock(&disk->open_mutex);
}

/* Claim the disk for removal. NULL if there is none. */
static struct gendisk *ublk_disk_claim(struct ublk_device *dev)
{
	struct gendisk *disk;

	mutex_lock(&dev->mutex);
	dev->stops++;
	disk = dev->disk;
	if (disk) {
		dev->stopping = true;
		/* Requests that wait for a server have waited for nothing. */
		if (dev->info.state != UBLK_S_DEV_LIVE)
			ublk_gates_close(dev);
	}
	mutex_unlock(&dev->mutex);
	wake_up_all(&dev->wait);
	return disk;
}

/*
 * Remove the disk, if there is one. Waits until the server has finished what it holds, or has died.
 * May be called by several at once.
 */
void ublk_disk_stop(struct ublk_device *dev)
{
	struct gendisk *disk;

	mutex_lock(&dev->stop_lock);
	disk = ublk_disk_claim(dev);
	if (disk) {
		blk_mq_kick_requeue_list(disk->queue);
		del_gendisk(disk);
		cancel_work_sync(&dev->scan_work);

		mutex_lock(&dev->mutex);
		dev->disk = NULL;
		dev->stopping = false;
		dev->info.state = UBLK_S_DEV_DEAD;
		mutex_unlock(&dev->mutex);
		put_disk(disk);
	}
	mutex_unlock(&dev->stop_lock);
}

/* As above, and end the commands of the server: for STOP_DEV and DEL_DEV. */
void ublk_dev_stop(struct ublk_device *dev)
{
	ublk_disk_stop(dev);
	ublk_cancel_begin(dev);
	/*
	 * Completing the last command may be the last use of the char device's file. Its release
	 * would then be left to us, as task work, which a worker of io_uring on its way to wait for
	 * that release does not get to. A kernel thread has it done elsewhere.
	 */
	queue_work(ublk_wq, &dev->cancel_work);
	flush_work(&dev->cancel_work);
}
