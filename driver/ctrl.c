// SPDX-License-Identifier: GPL-2.0
/* /dev/ublk-control: the commands that make, describe, start, stop and delete devices. */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/sched.h>
#include <linux/uaccess.h>

#include "ublk_drv.h"

#define UBLK_NO_QUEUE	((u16)-1)
/* Bytes in front of struct ublk_params that say how much of it follows. */
#define UBLK_PARAMS_HEAD	offsetof(struct ublk_params, basic)

static void __user *ublk_ctrl_buf(const struct ublk_ctrl *c)
{
	return u64_to_user_ptr(c->cmd.addr);
}

/* ADD_DEV: limits of what can be asked for; the rest is granted or dropped. */
static int ublk_check_new(struct ublksrv_ctrl_dev_info *info, u32 dev_id)
{
	if (info->dev_id != dev_id)
		return -EINVAL;
	if (dev_id != UBLK_NO_ID && dev_id >= UBLK_MAX_DEVICES)
		return -EINVAL;
	if (!info->queue_depth || info->queue_depth > UBLK_MAX_QUEUE_DEPTH)
		return -EINVAL;
	if (!info->nr_hw_queues || info->nr_hw_queues > UBLK_MAX_NR_QUEUES)
		return -EINVAL;
	if (info->max_io_buf_bytes < PAGE_SIZE)
		return -EINVAL;
	return 0;
}

static int ublk_ctrl_add(struct ublk_device *none, struct ublk_ctrl *c)
{
	struct ublksrv_ctrl_dev_info info;
	struct ublk_device *dev;
	int err;

	if (c->cmd.queue_id != UBLK_NO_QUEUE || !c->cmd.addr)
		return -EINVAL;
	if (copy_from_user(&info, ublk_ctrl_buf(c), sizeof(info)))
		return -EFAULT;
	err = ublk_check_new(&info, c->cmd.dev_id);
	if (err)
		return err;

	info.flags = (info.flags & UBLK_F_SUPPORTED) | UBLK_F_ALWAYS;
	info.nr_hw_queues = min_t(u32, info.nr_hw_queues, nr_cpu_ids);
	info.max_io_buf_bytes = round_down(info.max_io_buf_bytes, PAGE_SIZE);
	/* Ours to say, whatever the caller wrote. */
	info.state = UBLK_S_DEV_DEAD;
	info.ublksrv_pid = -1;
	info.owner_uid = from_kuid_munged(current_user_ns(), current_uid());
	info.owner_gid = from_kgid_munged(current_user_ns(), current_gid());
	info.io_desc_size = sizeof(struct ublksrv_io_desc);

	dev = ublk_dev_create(&info);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	if (copy_to_user(ublk_ctrl_buf(c), &info, sizeof(info))) {
		ublk_dev_delete(dev);
		err = -EFAULT;
	}
	ublk_dev_put(dev);
	return err;
}

/* DEL_DEV and DEL_DEV_ASYNC; for the first, ublk_ctrl_run() waits for the id. */
static int ublk_ctrl_del(struct ublk_device *dev, struct ublk_ctrl *c)
{
	return ublk_dev_delete(dev);
}

static int ublk_ctrl_stop(struct ublk_device *dev, struct ublk_ctrl *c)
{
	ublk_dev_stop(dev);
	return 0;
}

/* Is it the process that has the char device open? Numbers are those of the caller's namespace. */
static bool ublk_is_server(const struct ublk_device *dev, pid_t nr)
{
	bool same;

	rcu_read_lock();
	same = dev->server && find_vpid(nr) == dev->server;
	rcu_read_unlock();
	return same;
}

/* START_DEV once every tag was fetched. -EAGAIN: not so any more. dev->mutex held. */
static int ublk_start_ready(struct ublk_device *dev, pid_t server, u32 stops)
{
	if (dev->stopping || dev->stops != stops || test_bit(UBLK_DEV_DELETED, &dev->flags))
		return -EBUSY;
	if (dev->disk)
		return -EEXIST;
	if (dev->nr_ready != dev->nr_queues || dev->canceling)
		return -EAGAIN;
	if (!ublk_is_server(dev, server))
		return -EINVAL;
	return ublk_disk_start(dev);
}

static bool ublk_start_can_go(struct ublk_device *dev, u32 stops)
{
	return (READ_ONCE(dev->nr_ready) == dev->nr_queues && !READ_ONCE(dev->canceling)) ||
	       READ_ONCE(dev->stops) != stops || test_bit(UBLK_DEV_DELETED, &dev->flags);
}

static int ublk_ctrl_start(struct ublk_device *dev, struct ublk_ctrl *c)
{
	pid_t server = (pid_t)c->cmd.data[0];
	u32 stops;
	int err;

	if (server <= 0)
		return -EINVAL;

	mutex_lock(&dev->mutex);
	stops = dev->stops;
	err = 0;
	if (dev->stopping)
		err = -EBUSY;
	else if (dev->disk)
		err = -EEXIST;
	else if (!(dev->params.types & UBLK_PARAM_TYPE_BASIC))
		err = -EINVAL;
	mutex_unlock(&dev->mutex);

	while (!err) {
		if (wait_event_interruptible(dev->wait, ublk_start_can_go(dev, stops)))
			return -EINTR;
		mutex_lock(&dev->mutex);
		err = ublk_start_ready(dev, server, stops);
		mutex_unlock(&dev->mutex);
		if (!err)
			return 0;
		/* The server died between the wait and the lock: wait for the next one. */
		if (err == -EAGAIN)
			err = 0;
	}
	return err;
}

static int ublk_ctrl_get_info(struct ublk_device *dev, struct ublk_ctrl *c)
{
	struct ublksrv_ctrl_dev_info info;
	pid_t nr = 0;

	if (c->cmd.len < sizeof(info) || !c->cmd.addr)
		return -EINVAL;
	mutex_lock(&dev->mutex);
	info = dev->info;
	if (dev->disk && dev->server)
		nr = pid_vnr(dev->server);
	mutex_unlock(&dev->mutex);

	info.ublksrv_pid = nr ? nr : -1;
	return copy_to_user(ublk_ctrl_buf(c), &info, sizeof(info)) ? -EFAULT : 0;
}

/* As above, but the buffer starts with the path of the char device, for ordinary users. */
static int ublk_ctrl_get_info2(struct ublk_device *dev, struct ublk_ctrl *c)
{
	if (c->cmd.dev_path_len > PATH_MAX || c->cmd.dev_path_len > c->cmd.len || !c->cmd.addr)
		return -EINVAL;
	c->cmd.addr += c->cmd.dev_path_len;
	c->cmd.len -= c->cmd.dev_path_len;
	return ublk_ctrl_get_info(dev, c);
}

static int ublk_ctrl_get_affinity(struct ublk_device *dev, struct ublk_ctrl *c)
{
	const unsigned int *map = dev->tag_set.map[HCTX_TYPE_DEFAULT].mq_map;
	u64 queue = c->cmd.data[0];
	unsigned int cpu, bytes;
	cpumask_var_t mask;
	int err = 0;

	if (c->cmd.len * BITS_PER_BYTE < nr_cpu_ids || c->cmd.len % sizeof(unsigned long) ||
	    !c->cmd.addr || queue >= dev->nr_queues)
		return -EINVAL;
	if (!zalloc_cpumask_var(&mask, GFP_KERNEL))
		return -ENOMEM;
	for_each_possible_cpu(cpu)
		if (map[cpu] == queue)
			cpumask_set_cpu(cpu, mask);

	bytes = min_t(unsigned int, c->cmd.len, cpumask_size());
	if (copy_to_user(ublk_ctrl_buf(c), cpumask_bits(mask), bytes) ||
	    clear_user(ublk_ctrl_buf(c) + bytes, c->cmd.len - bytes))
		err = -EFAULT;
	free_cpumask_var(mask);
	return err;
}

static int ublk_ctrl_get_features(struct ublk_device *none, struct ublk_ctrl *c)
{
	u64 features = UBLK_F_SUPPORTED;

	if (c->cmd.len != UBLK_FEATURES_LEN || !c->cmd.addr)
		return -EINVAL;
	return copy_to_user(ublk_ctrl_buf(c), &features, sizeof(features)) ? -EFAULT : 0;
}

/* The length that both sides know of struct ublk_params. Negative errno if there is none. */
static int ublk_params_len(const struct ublk_ctrl *c, struct ublk_params *head)
{
	if (c->cmd.len <= UBLK_PARAMS_HEAD || !c->cmd.addr)
		return -EINVAL;
	if (copy_from_user(head, ublk_ctrl_buf(c), UBLK_PARAMS_HEAD))
		return -EFAULT;
	if (head->len < UBLK_PARAMS_HEAD || head->len > c->cmd.len)
		return -EINVAL;
	return min_t(u32, head->len, sizeof(*head));
}

static int ublk_ctrl_set_params(struct ublk_device *dev, struct ublk_ctrl *c)
{
	struct ublk_params params = {};
	int len = ublk_params_len(c, &params);
	int err = 0;

	if (len < 0)
		return len;
	if (!params.types)
		return -EINVAL;
	memset(&params, 0, sizeof(params));
	if (copy_from_user(&params, ublk_ctrl_buf(c), len))
		err = -EFAULT;
	params.len = len;
	params.types &= UBLK_PARAMS_SUPPORTED;

	mutex_lock(&dev->mutex);
	if (dev->disk) {
		err = -EACCES;
	} else {
		if (!err)
			err = ublk_params_check(dev, &params);
		/* A half-valid set is worse than none. */
		if (err)
			memset(&params, 0, sizeof(params));
		dev->params = params;
	}
	mutex_unlock(&dev->mutex);
	return err;
}

static int ublk_ctrl_get_params(struct ublk_device *dev, struct ublk_ctrl *c)
{
	struct ublk_params params;
	int len = ublk_params_len(c, &params);

	if (len < 0)
		return len;
	mutex_lock(&dev->mutex);
	params = dev->params;
	params.types |= UBLK_PARAM_TYPE_DEVT;
	params.devt.char_major = MAJOR(dev->cdev_dev.devt);
	params.devt.char_minor = MINOR(dev->cdev_dev.devt);
	if (dev->disk) {
		params.devt.disk_major = MAJOR(disk_devt(dev->disk));
		params.devt.disk_minor = MINOR(disk_devt(dev->disk));
	}
	mutex_unlock(&dev->mutex);

	params.len = len;
	return copy_to_user(ublk_ctrl_buf(c), &params, len) ? -EFAULT : 0;
}

enum {
	CTRL_MAY_SLEEP	= 1 << 0,	/* long: io_uring has to run it in a worker */
	CTRL_NO_DEV	= 1 << 1,	/* dev_id names no existing device */
	CTRL_DELETED	= 1 << 2,	/* also for a device on its way out */
	CTRL_WAIT_GONE	= 1 << 3,	/* returns when the id is free */
};

struct ublk_ctrl_op {
	int	(*run)(struct ublk_device *dev, struct ublk_ctrl *c);
	u8	flags;
	u16	min_len;	/* of the buffer */
};

/* By the number in the opcode. Every command needs CAP_SYS_ADMIN. */
static const struct ublk_ctrl_op ublk_ctrl_ops[] = {
	[_IOC_NR(UBLK_U_CMD_GET_QUEUE_AFFINITY)] = { ublk_ctrl_get_affinity, 0, 1 },
	[_IOC_NR(UBLK_U_CMD_GET_DEV_INFO)]	= { ublk_ctrl_get_info, 0,
						    sizeof(struct ublksrv_ctrl_dev_info) },
	[_IOC_NR(UBLK_U_CMD_GET_DEV_INFO2)]	= { ublk_ctrl_get_info2, 0,
						    sizeof(struct ublksrv_ctrl_dev_info) },
	[_IOC_NR(UBLK_U_CMD_GET_FEATURES)]	= { ublk_ctrl_get_features, CTRL_NO_DEV,
						    UBLK_FEATURES_LEN },
	[_IOC_NR(UBLK_U_CMD_ADD_DEV)]		= { ublk_ctrl_add, CTRL_MAY_SLEEP | CTRL_NO_DEV,
						    sizeof(struct ublksrv_ctrl_dev_info) },
	[_IOC_NR(UBLK_U_CMD_DEL_DEV)]		= { ublk_ctrl_del, CTRL_MAY_SLEEP | CTRL_DELETED |
						    CTRL_WAIT_GONE, 0 },
	[_IOC_NR(UBLK_U_CMD_DEL_DEV_ASYNC)]	= { ublk_ctrl_del, CTRL_MAY_SLEEP | CTRL_DELETED,
						    0 },
	[_IOC_NR(UBLK_U_CMD_START_DEV)]		= { ublk_ctrl_start, CTRL_MAY_SLEEP, 0 },
	[_IOC_NR(UBLK_U_CMD_STOP_DEV)]		= { ublk_ctrl_stop, CTRL_MAY_SLEEP, 0 },
	[_IOC_NR(UBLK_U_CMD_SET_PARAMS)]	= { ublk_ctrl_set_params, CTRL_MAY_SLEEP,
						    UBLK_PARAMS_HEAD + 1 },
	[_IOC_NR(UBLK_U_CMD_GET_PARAMS)]	= { ublk_ctrl_get_params, CTRL_MAY_SLEEP,
						    UBLK_PARAMS_HEAD + 1 },
};

static const struct ublk_ctrl_op *ublk_ctrl_find(u32 cmd_op)
{
	u32 nr = _IOC_NR(cmd_op);

	/* 'u' is the new form; plain numbers, of type 0, the old one. */
	if (_IOC_TYPE(cmd_op) != 'u' && _IOC_TYPE(cmd_op) != 0)
		return NULL;
	if (nr >= ARRAY_SIZE(ublk_ctrl_ops) || !ublk_ctrl_ops[nr].run)
		return NULL;
	return &ublk_ctrl_ops[nr];
}

/* The SQE may change under our hands: read every field once, then look only at the copy. */
static void ublk_ctrl_read(struct ublk_ctrl *c, const struct ublksrv_ctrl_cmd *sqe)
{
	c->cmd.dev_id = READ_ONCE(sqe->dev_id);
	c->cmd.queue_id = READ_ONCE(sqe->queue_id);
	c->cmd.len = READ_ONCE(sqe->len);
	c->cmd.addr = READ_ONCE(sqe->addr);
	c->cmd.data[0] = READ_ONCE(sqe->data[0]);
	c->cmd.dev_path_len = READ_ONCE(sqe->dev_path_len);
}

static int ublk_ctrl_run_dev(const struct ublk_ctrl_op *op, struct ublk_ctrl *c)
{
	struct ublk_device *dev = ublk_dev_find(c->cmd.dev_id);
	u64 serial;
	int ret;

	if (!dev)
		return -ENODEV;
	serial = dev->serial;
	if (test_bit(UBLK_DEV_DELETED, &dev->flags) && !(op->flags & CTRL_DELETED))
		ret = -ENODEV;
	else
		ret = op->run(dev, c);
	ublk_dev_put(dev);

	if (!ret && op->flags & CTRL_WAIT_GONE &&
	    wait_event_interruptible(ublk_id_wait, !ublk_dev_id_in_use(c->cmd.dev_id, serial)))
		ret = -EINTR;
	return ret;
}

static int ublk_ctrl_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	const struct ublk_ctrl_op *op;
	struct ublk_ctrl c = {};
	int ret;

	if (issue_flags & UBLK_URING_F_CANCEL)
		return 0;
	if (issue_flags & IO_URING_F_IOPOLL)
		return -EOPNOTSUPP;
	/* Half of the payload is in the second half of the SQE. */
	if (!(issue_flags & IO_URING_F_SQE128))
		return -EINVAL;
	op = ublk_ctrl_find(cmd->cmd_op);
	if (!op)
		return -EOPNOTSUPP;
	if (issue_flags & IO_URING_F_NONBLOCK && op->flags & CTRL_MAY_SLEEP)
		return -EAGAIN;
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;

	ublk_ctrl_read(&c, ublk_uring_payload(cmd));
	if (c.cmd.len < op->min_len)
		return -EINVAL;
	ret = op->flags & CTRL_NO_DEV ? op->run(NULL, &c) : ublk_ctrl_run_dev(op, &c);

	ublk_uring_done(cmd, ret, issue_flags);
	return -EIOCBQUEUED;
}

static const struct file_operations ublk_ctrl_fops = {
	.owner		= THIS_MODULE,
	.open		= nonseekable_open,
	.uring_cmd	= ublk_ctrl_uring_cmd,
	.llseek		= noop_llseek,
};

static struct miscdevice ublk_ctrl_dev = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "ublk-control",
	.fops	= &ublk_ctrl_fops,
};

int ublk_ctrl_register(void)
{
	return misc_register(&ublk_ctrl_dev);
}

void ublk_ctrl_unregister(void)
{
	misc_deregister(&ublk_ctrl_dev);
}
