// SPDX-License-Identifier: GPL-2.0
/* /sys/class/ublk-char/ublkcN: what a device is doing and what befell it. */
#include <linux/device.h>
#include <linux/sysfs.h>

#include "ublk_drv.h"

static struct ublk_device *ublk_dev_of(struct device *d)
{
	return container_of(d, struct ublk_device, cdev_dev);
}

static ssize_t state_show(struct device *d, struct device_attribute *attr, char *buf)
{
	static const char * const names[] = {
		[UBLK_S_DEV_DEAD]	= "dead",
		[UBLK_S_DEV_LIVE]	= "live",
		[UBLK_S_DEV_QUIESCED]	= "quiesced",
		[UBLK_S_DEV_FAIL_IO]	= "fail_io",
	};

	return sysfs_emit(buf, "%s\n", names[READ_ONCE(ublk_dev_of(d)->info.state)]);
}
static DEVICE_ATTR_RO(state);

static unsigned int ublk_queue_in_flight(const struct ublk_queue *q)
{
	unsigned int n = 0;
	u16 tag;

	for (tag = 0; tag < q->depth; tag++)
		n += ublk_io_has_request(&q->ios[tag]);
	return n;
}

/* Requests on their way to the server or with it, one number a queue. */
static ssize_t inflight_show(struct device *d, struct device_attribute *attr, char *buf)
{
	struct ublk_device *dev = ublk_dev_of(d);
	int len = 0;
	u16 i;

	for (i = 0; i < dev->nr_queues; i++)
		len += sysfs_emit_at(buf, len, "%s%u", i ? " " : "",
				     ublk_queue_in_flight(dev->queues[i]));
	len += sysfs_emit_at(buf, len, "\n");
	return len;
}
static DEVICE_ATTR_RO(inflight);

#define UBLK_COUNTER_ATTR(name)								\
static ssize_t name##_show(struct device *d, struct device_attribute *attr, char *buf)	\
{											\
	return sysfs_emit(buf, "%ld\n", atomic_long_read(&ublk_dev_of(d)->counters.name)); \
}											\
static DEVICE_ATTR_RO(name)

UBLK_COUNTER_ATTR(aborted);
UBLK_COUNTER_ATTR(requeued);
UBLK_COUNTER_ATTR(recovered);

static struct attribute *ublk_dev_attrs[] = {
	&dev_attr_state.attr,
	&dev_attr_inflight.attr,
	&dev_attr_aborted.attr,
	&dev_attr_requeued.attr,
	&dev_attr_recovered.attr,
	NULL
};

static const struct attribute_group ublk_dev_group = {
	.attrs = ublk_dev_attrs,
};

const struct attribute_group *ublk_dev_groups[] = {
	&ublk_dev_group,
	NULL
};
