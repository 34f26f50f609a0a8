// SPDX-License-Identifier: GPL-2.0
/* Life of a device: making, finding by id, reference counting, deleting. */
#include <linux/cred.h>
#include <linux/idr.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "ublk_drv.h"

/* id -> device, from ADD_DEV until the last reference is gone. */
static DEFINE_IDR(ublk_ids);
static DEFINE_SPINLOCK(ublk_ids_lock);
static u64 ublk_next_serial;	/* under ublk_ids_lock */
/* Woken when an id becomes free. */
DECLARE_WAIT_QUEUE_HEAD(ublk_id_wait);

static struct ublk_device *ublk_dev_of(struct device *d)
{
	return container_of(d, struct ublk_device, cdev_dev);
}

static int ublk_id_reserve(struct ublk_device *dev, u32 wanted)
{
	int start = wanted == UBLK_NO_ID ? 0 : wanted;
	int end = wanted == UBLK_NO_ID ? UBLK_MAX_DEVICES : wanted + 1;
	int id;

	idr_preload(GFP_KERNEL);
	spin_lock(&ublk_ids_lock);
	/* Not to be found before it is complete: see ublk_id_publish(). */
	id = idr_alloc(&ublk_ids, NULL, start, end, GFP_NOWAIT);
	if (id >= 0)
		dev->serial = ++ublk_next_serial;
	spin_unlock(&ublk_ids_lock);
	idr_preload_end();

	if (id == -ENOSPC)
		return wanted == UBLK_NO_ID ? -ENOSPC : -EEXIST;
	return id;
}

static void ublk_id_publish(struct ublk_device *dev)
{
	spin_lock(&ublk_ids_lock);
	idr_replace(&ublk_ids, dev, dev->id);
	spin_unlock(&ublk_ids_lock);
}

static void ublk_id_release(u32 id)
{
	spin_lock(&ublk_ids_lock);
	idr_remove(&ublk_ids, id);
	spin_unlock(&ublk_ids_lock);
	wake_up_all(&ublk_id_wait);
}

bool ublk_dev_id_in_use(u32 id, u64 serial)
{
	struct ublk_device *dev;
	bool used;

	spin_lock(&ublk_ids_lock);
	dev = idr_find(&ublk_ids, id);
	used = dev && dev->serial == serial;
	spin_unlock(&ublk_ids_lock);
	return used;
}

void ublk_dev_get(struct ublk_device *dev)
{
	get_device(&dev->cdev_dev);
}

void ublk_dev_put(struct ublk_device *dev)
{
	put_device(&dev->cdev_dev);
}

/* The device with a reference, or NULL. A device whose last reference is going is not found. */
struct ublk_device *ublk_dev_find(u32 id)
{
	struct ublk_device *dev;

	if (id >= UBLK_MAX_DEVICES)
		return NULL;
	spin_lock(&ublk_ids_lock);
	dev = idr_find(&ublk_ids, id);
	if (dev && !kobject_get_unless_zero(&dev->cdev_dev.kobj))
		dev = NULL;
	spin_unlock(&ublk_ids_lock);
	return dev;
}

static void ublk_dev_free_parts(struct ublk_device *dev)
{
	u16 i;

	/* A request that timed out may have started it last. */
	cancel_work_sync(&dev->monitor_work);
	if (dev->queues) {
		for (i = 0; i < dev->nr_queues; i++)
			ublk_queue_destroy(dev->queues[i]);
		kfree(dev->queues);
	}
	if (dev->tag_set.tags)
		blk_mq_free_tag_set(&dev->tag_set);
	if (dev->flags_granted & UBLK_F_UNPRIVILEGED_DEV)
		ublk_quota_give_back();
	put_pid(dev->server);
	ublk_shmem_clear(dev);
	ida_destroy(&dev->shmem_ids);
	mutex_destroy(&dev->shmem_lock);
	mutex_destroy(&dev->mutex);
	mutex_destroy(&dev->stop_lock);
}

/* Last reference: the char device, its mappings and the disk are all gone. */
static void ublk_dev_release(struct device *d)
{
	struct ublk_device *dev = ublk_dev_of(d);

	ublk_dev_free_parts(dev);
	/* Whoever looks the id up still looks at dev. */
	ublk_id_release(dev->id);
	kfree(dev);
}

static int ublk_dev_alloc_tags(struct ublk_device *dev)
{
	struct blk_mq_tag_set *set = &dev->tag_set;

	set->ops = &ublk_mq_ops;
	set->nr_hw_queues = dev->nr_queues;
	set->queue_depth = dev->depth;
	set->numa_node = NUMA_NO_NODE;
	set->timeout = dev->flags_granted & UBLK_F_UNPRIVILEGED_DEV ? UBLK_USER_TIMEOUT :
								      UBLK_LOOK_TIMEOUT;
	set->cmd_size = sizeof(struct ublk_rq);
	/* The server's own files have a scheduler below them; a second one up here only costs. */
	set->flags = UBLK_MQ_F_MERGE | BLK_MQ_F_NO_SCHED_BY_DEFAULT;
	set->driver_data = dev;
	return blk_mq_alloc_tag_set(set);
}

static int ublk_dev_alloc_queues(struct ublk_device *dev)
{
	u16 i;

	dev->queues = kcalloc(dev->nr_queues, sizeof(*dev->queues), GFP_KERNEL);
	if (!dev->queues)
		return -ENOMEM;
	for (i = 0; i < dev->nr_queues; i++) {
		dev->queues[i] = ublk_queue_create(dev, i);
		if (!dev->queues[i])
			return -ENOMEM;
	}
	return 0;
}

static int ublk_dev_add_char(struct ublk_device *dev)
{
	struct device *d = &dev->cdev_dev;
	int err;

	cdev_init(&dev->cdev, &ublk_chan_fops);
	dev->cdev.owner = THIS_MODULE;
	device_initialize(d);
	d->class = ublk_char_class;
	d->groups = ublk_dev_groups;
	d->release = ublk_dev_release;
	d->devt = MKDEV(MAJOR(ublk_char_devt), dev->id);
	err = dev_set_name(d, "ublkc%u", dev->id);
	if (!err)
		err = cdev_device_add(&dev->cdev, d);
	if (err)
		put_device(d);
	return err;
}

/*
 * Makes a device from a checked request and writes what was granted back into @info.
 * Returns it with a reference for the caller, next to the one that is dropped when it is deleted.
 */
struct ublk_device *ublk_dev_create(struct ublksrv_ctrl_dev_info *info)
{
	struct ublk_device *dev;
	int err, id;

	dev = kzalloc(sizeof(*dev), GFP_KERNEL);
	if (!dev)
		return ERR_PTR(-ENOMEM);
	mutex_init(&dev->stop_lock);
	mutex_init(&dev->mutex);
	mutex_init(&dev->shmem_lock);
	ida_init(&dev->shmem_ids);
	init_waitqueue_head(&dev->wait);
	INIT_LIST_HEAD(&dev->waiters);
	INIT_WORK(&dev->release_work, ublk_release_work);
	INIT_WORK(&dev->stop_work, ublk_stop_work);
	INIT_WORK(&dev->cancel_work, ublk_cancel_work);
	INIT_WORK(&dev->scan_work, ublk_scan_work);
	INIT_WORK(&dev->monitor_work, ublk_monitor_work);
	INIT_LIST_HEAD(&dev->watched);
	dev->nr_queues = info->nr_hw_queues;
	dev->depth = info->queue_depth;
	dev->desc_bytes = info->io_desc_size;
	dev->owner_uid = current_uid();
	dev->owner_gid = current_gid();
	if (info->flags & UBLK_F_UNPRIVILEGED_DEV && !ublk_quota_take()) {
		err = -EACCES;
		goto free;
	}
	dev->flags_granted = info->flags;

	id = ublk_id_reserve(dev, info->dev_id);
	if (id < 0) {
		err = id;
		goto free;
	}
	dev->id = id;
	info->dev_id = id;
	dev->info = *info;

	err = ublk_dev_alloc_tags(dev);
	if (!err)
		err = ublk_dev_alloc_queues(dev);
	if (err)
		goto free_id;

	/* From here on the last put frees everything, the id included. */
	err = ublk_dev_add_char(dev);
	if (err)
		return ERR_PTR(err);
	ublk_dev_get(dev);
	ublk_id_publish(dev);
	return dev;

free_id:
	ublk_id_release(id);
free:
	ublk_dev_free_parts(dev);
	kfree(dev);
	return ERR_PTR(err);
}

/* For unloading: nothing is open, so nothing keeps a device. */
void ublk_dev_delete_all(void)
{
	struct ublk_device *dev;
	int id = 0;

	for (;;) {
		spin_lock(&ublk_ids_lock);
		dev = idr_get_next(&ublk_ids, &id);
		if (dev && !kobject_get_unless_zero(&dev->cdev_dev.kobj))
			dev = NULL;
		spin_unlock(&ublk_ids_lock);
		if (!dev)
			break;
		ublk_dev_delete_now(dev);
		ublk_dev_put(dev);
		id++;
	}
	/* A device deleted earlier may still be on its way out. */
	wait_event(ublk_id_wait, idr_is_empty(&ublk_ids));
	/* And its last put may still hold the lock that it freed the id under. */
	spin_lock(&ublk_ids_lock);
	spin_unlock(&ublk_ids_lock);
	idr_destroy(&ublk_ids);
}
