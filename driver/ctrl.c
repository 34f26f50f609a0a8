// SPDX-License-Identifier: GPL-2.0
/* /dev/ublk-control: the commands that make, describe, start, stop and delete devices. */
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/uaccess.h>

#include "ublk_drv.h"

#define UBLK_NO_QUEUE	((u16)-1)
/* Bytes in front of struct ublk_params that say how much of it follows. */
#define UBLK_PARAMS_HEAD	offsetof(struct ublk_params, basic)

static void __user *ublk_ctrl_buf(const struct ublk_ctrl *c)
{
	return u64_to_user_ptr(c->cmd.addr);
}

/* Features that make no sense together, or without another. */
static int ublk_check_flags(u64 flags)
{
	switch (flags & UBLK_F_RECOVERY_MODES) {
	case 0:
	case UBLK_F_USER_RECOVERY:
	case UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE:
	case UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO:
		break;
	default:
		return -EINVAL;
	}
	if (flags & UBLK_F_QUIESCE && !(flags & UBLK_F_USER_RECOVERY))
		return -EINVAL;
	if (flags & UBLK_F_INTEGRITY && !(flags & UBLK_F_USER_COPY))
		return -EINVAL;
	/* Reports of zones have no buffer in the server. */
	if (flags & UBLK_F_ZONED && !(flags & (UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY)))
		return -EINVAL;
	return 0;
}

/* With UBLK_F_IO_DESC_SIZE, the server says how far its descriptors are apart. */
static int ublk_check_desc_size(struct ublksrv_ctrl_dev_info *info)
{
	if (!(info->flags & UBLK_F_IO_DESC_SIZE)) {
		info->io_desc_size = sizeof(struct ublksrv_io_desc);
		return 0;
	}
	if (info->io_desc_size < sizeof(struct ublksrv_io_desc) ||
	    info->io_desc_size > UBLK_MAX_DESC_BYTES || info->io_desc_size % sizeof(u64))
		return -EINVAL;
	return 0;
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
	return ublk_check_flags(info->flags) ?: ublk_check_desc_size(info);
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
	info.flags = (info.flags & UBLK_F_SUPPORTED) | UBLK_F_ALWAYS;
	/* Queues that are served as a whole have neither tasks nor buffers for single tags. */
	if (info.flags & UBLK_F_BATCH_IO)
		info.flags &= ~(UBLK_F_NEED_GET_DATA | UBLK_F_PER_IO_DAEMON);
	err = ublk_check_new(&info, c->cmd.dev_id) ?: ublk_access_new(&info);
	if (err)
		return err;

	info.nr_hw_queues = min_t(u32, info.nr_hw_queues, nr_cpu_ids);
	info.max_io_buf_bytes = round_down(info.max_io_buf_bytes, PAGE_SIZE);
	/* Ours to say, whatever the caller wrote. */
	info.state = UBLK_S_DEV_DEAD;
	info.ublksrv_pid = -1;
	info.owner_uid = from_kuid_munged(current_user_ns(), current_uid());
	info.owner_gid = from_kgid_munged(current_user_ns(), current_gid());

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
	ublk_dev_delete(dev);
	return 0;
}

static int ublk_ctrl_stop(struct ublk_device *dev, struct ublk_ctrl *c)
{
	return ublk_dev_stop(dev, NULL);
}

static int ublk_ctrl_try_stop(struct ublk_device *dev, struct ublk_ctrl *c)
{
	return ublk_dev_stop_unused(dev);
}

static int ublk_ctrl_update_size(struct ublk_device *dev, struct ublk_ctrl *c)
{
	return ublk_disk_resize(dev, c->cmd.data[0]);
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
	CTRL_READS	= 1 << 4,	/* for those who may read the char device, not only write */
	CTRL_HAS_PATH	= 1 << 5,	/* the buffer starts with a path, whosever the device is */
};

struct ublk_ctrl_op {
	int	(*run)(struct ublk_device *dev, struct ublk_ctrl *c);
	u8	flags;
	u16	min_len;	/* of the buffer */
};

#define CTRL_OP(name, run, flags, min_len)	\
	[_IOC_NR(UBLK_U_CMD_##name)] = { run, flags, min_len }

/* By the number in the opcode. */
static const struct ublk_ctrl_op ublk_ctrl_ops[] = {
	CTRL_OP(GET_FEATURES, ublk_ctrl_get_features, CTRL_NO_DEV, UBLK_FEATURES_LEN),
	CTRL_OP(GET_QUEUE_AFFINITY, ublk_ctrl_get_affinity, CTRL_MAY_SLEEP | CTRL_READS, 1),
	CTRL_OP(GET_DEV_INFO, ublk_ctrl_get_info, CTRL_MAY_SLEEP | CTRL_READS,
		sizeof(struct ublksrv_ctrl_dev_info)),
	CTRL_OP(GET_DEV_INFO2, ublk_ctrl_get_info, CTRL_MAY_SLEEP | CTRL_READS | CTRL_HAS_PATH,
		sizeof(struct ublksrv_ctrl_dev_info)),
	CTRL_OP(GET_PARAMS, ublk_ctrl_get_params, CTRL_MAY_SLEEP | CTRL_READS,
		UBLK_PARAMS_HEAD + 1),
	CTRL_OP(SET_PARAMS, ublk_ctrl_set_params, CTRL_MAY_SLEEP, UBLK_PARAMS_HEAD + 1),
	CTRL_OP(ADD_DEV, ublk_ctrl_add, CTRL_MAY_SLEEP | CTRL_NO_DEV,
		sizeof(struct ublksrv_ctrl_dev_info)),
	CTRL_OP(DEL_DEV, ublk_ctrl_del, CTRL_MAY_SLEEP | CTRL_DELETED | CTRL_WAIT_GONE, 0),
	CTRL_OP(DEL_DEV_ASYNC, ublk_ctrl_del, CTRL_MAY_SLEEP | CTRL_DELETED, 0),
	CTRL_OP(START_DEV, ublk_ctrl_start, CTRL_MAY_SLEEP, 0),
	CTRL_OP(STOP_DEV, ublk_ctrl_stop, CTRL_MAY_SLEEP, 0),
	CTRL_OP(TRY_STOP_DEV, ublk_ctrl_try_stop, CTRL_MAY_SLEEP, 0),
	CTRL_OP(START_USER_RECOVERY, ublk_ctrl_start_recovery, CTRL_MAY_SLEEP, 0),
	CTRL_OP(END_USER_RECOVERY, ublk_ctrl_end_recovery, CTRL_MAY_SLEEP, 0),
	CTRL_OP(QUIESCE_DEV, ublk_ctrl_quiesce, CTRL_MAY_SLEEP, 0),
	CTRL_OP(UPDATE_SIZE, ublk_ctrl_update_size, CTRL_MAY_SLEEP, 0),
	CTRL_OP(REG_BUF, ublk_ctrl_reg_buf, CTRL_MAY_SLEEP, 1),
	CTRL_OP(UNREG_BUF, ublk_ctrl_unreg_buf, CTRL_MAY_SLEEP, 0),
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

static int ublk_ctrl_run_on(const struct ublk_ctrl_op *op, struct ublk_device *dev,
			    struct ublk_ctrl *c)
{
	int err;

	if (test_bit(UBLK_DEV_DELETED, &dev->flags) && !(op->flags & CTRL_DELETED))
		return -ENODEV;
	err = ublk_access_check(dev, c, !(op->flags & CTRL_READS), op->flags & CTRL_HAS_PATH);
	if (err)
		return err;
	if (c->cmd.len < op->min_len)
		return -EINVAL;
	return op->run(dev, c);
}

static int ublk_ctrl_run_dev(const struct ublk_ctrl_op *op, struct ublk_ctrl *c)
{
	struct ublk_device *dev = ublk_dev_find(c->cmd.dev_id);
	u64 serial;
	int ret;

	if (!dev)
		return -ENODEV;
	serial = dev->serial;
	ret = ublk_ctrl_run_on(op, dev, c);
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
