/* SPDX-License-Identifier: GPL-2.0 */
/* Small differences outside io_uring and the block layer. */
#ifndef UBLK_COMPAT_MISC_H
#define UBLK_COMPAT_MISC_H

#include <linux/cred.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/module.h>

#include "config.h"

static inline struct class *ublk_class_create(const char *name)
{
#ifdef UBLK_HAVE_CLASS_CREATE_OWNER
	return class_create(THIS_MODULE, name);
#else
	return class_create(name);
#endif
}

/* May the caller do this (MAY_*) to the inode? */
static inline int ublk_inode_permission(struct inode *inode, int mask)
{
#ifdef UBLK_HAVE_MNT_IDMAP
	return inode_permission(&nop_mnt_idmap, inode, mask);
#else
	return inode_permission(&init_user_ns, inode, mask);
#endif
}

/* For the mmap handler, where the mapping is not yet visible to anybody else. */
static inline void ublk_vm_flags_mod(struct vm_area_struct *vma, unsigned long set,
				     unsigned long clear)
{
#ifdef UBLK_HAVE_VM_FLAGS_HELPERS
	vm_flags_mod(vma, set, clear);
#else
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
#endif
}

#endif
