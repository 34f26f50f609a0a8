// SPDX-License-Identifier: GPL-2.0
/* /dev/ublkbN: from START_DEV until the disk is stopped. */
#include <linux/blkdev.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "ublk_drv.h"

/* The private_data of a disk. */
struct ublk_disk {
	struct ublk_device	*dev;	/* with a reference */
	/*
	 * How often it is open, or UBLK_DISK_CLOSED. The block layer counts as well, but only tells
	 * under open_mutex, which it holds while a search for partitions waits for the server.
	 */
	atomic_t		opens;
};

#define UBLK_DISK_CLOSED	(-1)

static void ublk_disk_put_private(struct ublk_disk *d)
{
	struct ublk_device *dev = d->dev;

	kfree(d);
	ublk_dev_put(dev);
}

/* After the last user of a stopped disk. */
static void ublk_disk_free(struct gendisk *disk)
{
	ublk_disk_put_private(disk->private_data);
}

UBLK_DISK_OPEN(ublk_disk_open)
{
	struct ublk_disk *d = disk->private_data;

	if (!ublk_access_may_open(d->dev))
		return -EPERM;
	return atomic_inc_unless_negative(&d->opens) ? 0 : -ENXIO;
}

UBLK_DISK_RELEASE(ublk_disk_release)
{
	struct ublk_disk *d = disk->private_data;

	atomic_dec(&d->opens);
}

/* Have the disk refuse users from now on, for good. False if somebody has it open. */
bool ublk_disk_close_unused(struct gendisk *disk)
{
	struct ublk_disk *d = disk->private_data;

	return atomic_cmpxchg(&d->opens, 0, UBLK_DISK_CLOSED) <= 0;
}

static const struct block_device_operations ublk_disk_ops = {
	.owner		= THIS_MODULE,
	.open		= ublk_disk_open,
	.release	= ublk_disk_release,
	.free_disk	= ublk_disk_free,
};

static const struct block_device_operations ublk_zoned_disk_ops = {
	.owner		= THIS_MODULE,
	.open		= ublk_disk_open,
	.release	= ublk_disk_release,
	.free_disk	= ublk_disk_free,
	.report_zones	= ublk_zones_report,
};

/*
 * What comes after the gates were opened: make the disk visible, or with @err give it up. Returns
 * why it was given up. dev->mutex held.
 */
static int ublk_disk_finish(struct ublk_device *dev, struct gendisk *disk, int err)
{
	if (!err)
		err = add_disk(disk);
	if (err) {
		struct ublk_disk *d = disk->private_data;

		ublk_gates_close(dev);
		/* Reports of zones have started the timer, which only del_gendisk() would stop. */
		blk_sync_queue(disk->queue);
		/* free_disk is only called for a disk that was added. */
		put_disk(disk);
		ublk_disk_put_private(d);
		return err;
	}
	dev->disk = disk;
	dev->info.state = UBLK_S_DEV_LIVE;
	/* What a server that we do not trust writes into a partition table is not parsed. */
	if (test_bit(UBLK_DEV_UNTRUSTED, &dev->flags))
		return 0;
	if (dev->flags_granted & UBLK_F_NO_AUTO_PART_SCAN)
		clear_bit(GD_SUPPRESS_PART_SCAN, &disk->state);
	else
		queue_work(ublk_wq, &dev->scan_work);
	return 0;
}

/*
 * The start of a zoned disk: its server is asked for the zones. That may be the process that sent
 * START_DEV, so it is left to a kernel thread, as in stop.c. Who waits for it may be interrupted,
 * and then the disk is given up.
 */
struct ublk_zoned_start {
	struct work_struct	work;
	struct ublk_device	*dev;
	struct gendisk		*disk;
	refcount_t		refs;	/* the work, and who waits */
	/* under dev->mutex */
	u32			stops;	/* dev->stops at the beginning */
	bool			left;	/* nobody waits any more */
	bool			over;
	int			err;	/* when it is over */
};

static void ublk_zoned_start_put(struct ublk_zoned_start *s)
{
	if (refcount_dec_and_test(&s->refs))
		kfree(s);
}

static void ublk_zoned_start_work(struct work_struct *work)
{
	struct ublk_zoned_start *s = container_of(work, struct ublk_zoned_start, work);
	struct ublk_device *dev = s->dev;
	int err = ublk_revalidate_zones(s->disk);

	mutex_lock(&dev->mutex);
	dev->starting = false;
	/* The server may have died, or the device been stopped meanwhile. */
	if (!err && (s->left || dev->stops != s->stops || !ublk_gates_are(dev, UBLK_GATE_OPEN)))
		err = -EBUSY;
	s->err = ublk_disk_finish(dev, s->disk, err);
	WRITE_ONCE(s->over, true);
	mutex_unlock(&dev->mutex);
	wake_up_all(&dev->wait);

	ublk_zoned_start_put(s);
	ublk_dev_put(dev);
	/* The work may still be in this function: unloading waits for the workqueue. */
	module_put(THIS_MODULE);
}

/* dev->mutex held, but not while it waits. */
static int ublk_disk_finish_zoned(struct ublk_device *dev, struct gendisk *disk)
{
	struct ublk_zoned_start *s = kzalloc(sizeof(*s), GFP_KERNEL);
	int err;

	if (!s)
		return ublk_disk_finish(dev, disk, -ENOMEM);
	INIT_WORK(&s->work, ublk_zoned_start_work);
	s->dev = dev;
	s->disk = disk;
	refcount_set(&s->refs, 2);
	s->stops = dev->stops;
	dev->starting = true;
	ublk_dev_get(dev);
	__module_get(THIS_MODULE);
	queue_work(ublk_wait_wq, &s->work);

	mutex_unlock(&dev->mutex);
	err = wait_event_interruptible(dev->wait, READ_ONCE(s->over));
	mutex_lock(&dev->mutex);
	if (s->over) {
		err = s->err;
	} else {
		s->left = true;
		err = -EINTR;
	}
	ublk_zoned_start_put(s);
	return err;
}

/*
 * Make the disk visible and let requests pass. Every tag is fetched. dev->mutex is held, but let go
 * of while the server reports zones.
 */
int ublk_disk_start(struct ublk_device *dev)
{
	const struct ublk_param_basic *basic = &dev->params.basic;
	bool zoned = dev->flags_granted & UBLK_F_ZONED;
	struct ublk_disk_limits lim;
	struct gendisk *disk;
	struct ublk_disk *d;

	lockdep_assert_held(&dev->mutex);
	d = kzalloc(sizeof(*d), GFP_KERNEL);
	if (!d)
		return -ENOMEM;
	ublk_params_to_limits(&dev->params, &lim);
	disk = ublk_alloc_disk(&dev->tag_set, &lim, NULL);
	if (IS_ERR(disk)) {
		kfree(d);
		return PTR_ERR(disk);
	}

	snprintf(disk->disk_name, sizeof(disk->disk_name), "ublkb%u", dev->id);
	disk->fops = zoned ? &ublk_zoned_disk_ops : &ublk_disk_ops;
	disk->private_data = d;
	set_capacity(disk, basic->dev_sectors);
	if (basic->attrs & UBLK_ATTR_READ_ONLY)
		set_disk_ro(disk, true);
	/* Reading the partition table needs the server: not here, see ublk_scan_work(). */
	set_bit(GD_SUPPRESS_PART_SCAN, &disk->state);

	ublk_dev_get(dev);
	d->dev = dev;
	ublk_gates_open(dev);
	return zoned ? ublk_disk_finish_zoned(dev, disk) : ublk_disk_finish(dev, disk, 0);
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

/* Claim the disk for removal. NULL if there is none. dev->stop_lock held. */
static struct gendisk *ublk_disk_claim(struct ublk_device *dev)
{
	struct gendisk *disk;

	mutex_lock(&dev->mutex);
	disk = dev->disk;
	if (disk) {
		dev->stopping = true;
		/* With a server, the requests are finished first. */
		if (ublk_gates_are(dev, UBLK_GATE_PAUSE))
			ublk_gates_open(dev);
		/* Without, those that wait have waited for nothing. */
		else if (!ublk_gates_are(dev, UBLK_GATE_OPEN))
			ublk_gates_close(dev);
	}
	mutex_unlock(&dev->mutex);
	wake_up_all(&dev->wait);
	return disk;
}

/* Remove the disk, if there is one. dev->stop_lock held. */
void ublk_disk_remove(struct ublk_device *dev)
{
	struct gendisk *disk = ublk_disk_claim(dev);

	if (!disk)
		return;
	del_gendisk(disk);
	cancel_work_sync(&dev->scan_work);

	mutex_lock(&dev->mutex);
	dev->disk = NULL;
	dev->stopping = false;
	dev->info.state = UBLK_S_DEV_DEAD;
	/* The server has to come again before the next disk. */
	ublk_cancel_begin_locked(dev);
	mutex_unlock(&dev->mutex);
	put_disk(disk);
}

/*
 * Remove the disk, if there is one. Waits until the server has finished what it holds, or has died.
 * May be called by several at once.
 */
void ublk_disk_stop(struct ublk_device *dev)
{
	mutex_lock(&dev->stop_lock);
	ublk_disk_remove(dev);
	mutex_unlock(&dev->stop_lock);
}

/* The disk with a reference, if there is one that is not going away. */
struct gendisk *ublk_disk_get(struct ublk_device *dev)
{
	struct gendisk *disk;

	mutex_lock(&dev->mutex);
	disk = dev->stopping ? NULL : dev->disk;
	if (disk)
		get_device(disk_to_dev(disk));
	mutex_unlock(&dev->mutex);
	return disk;
}

int ublk_disk_resize(struct ublk_device *dev, u64 sectors)
{
	int err = 0;

	mutex_lock(&dev->mutex);
	if (!dev->disk || dev->stopping) {
		err = -ENODEV;
	} else {
		err = ublk_params_check_size(&dev->params.basic, sectors);
		if (!err) {
			dev->params.basic.dev_sectors = sectors;
			set_capacity_and_notify(dev->disk, sectors);
		}
	}
	mutex_unlock(&dev->mutex);
	return err;
}
