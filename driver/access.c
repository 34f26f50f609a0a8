// SPDX-License-Identifier: GPL-2.0
/*
 * Who may do what. A device belongs to root (CAP_SYS_ADMIN) or, made with UBLK_F_UNPRIVILEGED_DEV,
 * to whoever may read and write its char device: its control commands carry a path to that, in
 * front of their buffer.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "compat/misc.h"
#include "ublk_drv.h"

#define UBLK_DEFAULT_QUOTA	64

static unsigned int ublks_max = UBLK_DEFAULT_QUOTA;
module_param(ublks_max, uint, 0644);
MODULE_PARM_DESC(ublks_max, "most unprivileged devices at a time (default 64)");
static atomic_t ublk_nr_unprivileged = ATOMIC_INIT(0);

/* What an ordinary user's device must not have: the first could read what is not its own. */
#define UBLK_F_DANGEROUS	UBLK_F_OWN_ACCESS
/* Dropped: disks without a server are one more thing to stumble over; pinned memory is scarce. */
#define UBLK_F_NOT_FOR_USERS	(UBLK_F_RECOVERY_MODES | UBLK_F_QUIESCE | UBLK_F_SHMEM_ZC)

/* ADD_DEV: may the caller make this device? Takes away what it may not have. */
int ublk_access_new(struct ublksrv_ctrl_dev_info *info)
{
	if (!(info->flags & UBLK_F_UNPRIVILEGED_DEV))
		return capable(CAP_SYS_ADMIN) ? 0 : -EPERM;
	if (info->flags & UBLK_F_DANGEROUS)
		return -EINVAL;
	info->flags &= ~UBLK_F_NOT_FOR_USERS;
	return 0;
}

/* Counts one more unprivileged device, if there may be one. */
bool ublk_quota_take(void)
{
	if (atomic_inc_return(&ublk_nr_unprivileged) <= READ_ONCE(ublks_max))
		return true;
	atomic_dec(&ublk_nr_unprivileged);
	return false;
}

void ublk_quota_give_back(void)
{
	atomic_dec(&ublk_nr_unprivileged);
}

/* Is it our char device, and may the caller use it? */
static int ublk_check_node(const struct ublk_device *dev, const struct path *path, int mask)
{
	struct inode *inode = d_backing_inode(path->dentry);

	if (!S_ISCHR(inode->i_mode) || inode->i_rdev != dev->cdev_dev.devt)
		return -EINVAL;
	/* A filesystem that its user made up can't give permissions on devices. */
	if (path->mnt->mnt_flags & MNT_NODEV || path->mnt->mnt_sb->s_iflags & SB_I_NODEV)
		return -EACCES;
	return ublk_inode_permission(inode, mask);
}

static int ublk_check_path(const struct ublk_device *dev, const struct ublk_ctrl *c, bool writes)
{
	struct path path;
	char *name;
	int err;

	if (!c->cmd.dev_path_len)
		return -EINVAL;
	name = memdup_user_nul(u64_to_user_ptr(c->cmd.addr), c->cmd.dev_path_len);
	if (IS_ERR(name))
		return PTR_ERR(name);
	err = kern_path(name, LOOKUP_FOLLOW, &path);
	if (!err) {
		err = ublk_check_node(dev, &path, writes ? MAY_READ | MAY_WRITE : MAY_READ);
		path_put(&path);
	}
	kfree(name);
	return err;
}

/*
 * May the caller do this to the device? Removes the path from the front of the command's buffer,
 * which is there for unprivileged devices and where the command says so (@has_path).
 */
int ublk_access_check(struct ublk_device *dev, struct ublk_ctrl *c, bool writes, bool has_path)
{
	bool unprivileged = dev->flags_granted & UBLK_F_UNPRIVILEGED_DEV;
	bool admin = capable(CAP_SYS_ADMIN);
	int err;

	if (!unprivileged && !admin)
		return -EPERM;
	if (!unprivileged && !has_path)
		return 0;
	if (c->cmd.dev_path_len > PATH_MAX || c->cmd.dev_path_len > c->cmd.len)
		return -EINVAL;
	if (!admin) {
		err = ublk_check_path(dev, c, writes);
		if (err)
			return err;
	}
	c->cmd.addr += c->cmd.dev_path_len;
	c->cmd.len -= c->cmd.dev_path_len;
	return 0;
}

/* A disk whose server is not trusted could be a trap for others: its owner alone opens it. */
bool ublk_access_may_open(const struct ublk_device *dev)
{
	if (!(dev->flags_granted & UBLK_F_UNPRIVILEGED_DEV) || capable(CAP_SYS_ADMIN))
		return true;
	return uid_eq(current_uid(), dev->owner_uid) && gid_eq(current_gid(), dev->owner_gid);
}
