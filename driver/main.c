// SPDX-License-Identifier: GPL-2.0
/* Loading and unloading of the module. */
#include <linux/fs.h>
#include <linux/module.h>

#include "compat/misc.h"
#include "ublk_drv.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

#define UBLK_CHAR_NAME	"ublk-char"

/* Runs what must not hold up the closing task: release, partition scan, monitor. */
struct workqueue_struct *ublk_wq;
/* Runs what waits for I/O until a server has died, which ublk_wq finds out. */
struct workqueue_struct *ublk_wait_wq;
/* /sys/class/ublk-char, and the numbers of /dev/ublkcN: minor N. */
struct class *ublk_char_class;
dev_t ublk_char_devt;

static int __init ublk_init(void)
{
	int err;

	ublk_wq = alloc_workqueue("ublk", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!ublk_wq)
		return -ENOMEM;

	ublk_wait_wq = alloc_workqueue("ublk_wait", WQ_UNBOUND, 0);
	if (!ublk_wait_wq) {
		err = -ENOMEM;
		goto destroy_wq;
	}

	err = alloc_chrdev_region(&ublk_char_devt, 0, UBLK_MAX_DEVICES, UBLK_CHAR_NAME);
	if (err)
		goto destroy_wait_wq;

	ublk_char_class = ublk_class_create(UBLK_CHAR_NAME);
	if (IS_ERR(ublk_char_class)) {
		err = PTR_ERR(ublk_char_class);
		goto free_region;
	}

	err = ublk_ctrl_register();
	if (err)
		goto destroy_class;
	return 0;

destroy_class:
	class_destroy(ublk_char_class);
free_region:
	unregister_chrdev_region(ublk_char_devt, UBLK_MAX_DEVICES);
destroy_wait_wq:
	destroy_workqueue(ublk_wait_wq);
destroy_wq:
	destroy_workqueue(ublk_wq);
	return err;
}

static void __exit ublk_exit(void)
{
	/*
	 * Open files of the control device, of a char device and of a disk each hold the module, so
	 * only idle devices are left, and nobody can add one any more.
	 */
	ublk_ctrl_unregister();
	ublk_dev_delete_all();
	class_destroy(ublk_char_class);
	unregister_chrdev_region(ublk_char_devt, UBLK_MAX_DEVICES);
	destroy_workqueue(ublk_wait_wq);
	destroy_workqueue(ublk_wq);
	ublk_integrity_exit();
}

module_init(ublk_init);
module_exit(ublk_exit);

MODULE_AUTHOR("The ublkd authors");
MODULE_DESCRIPTION("Block devices served by user space through io_uring");
MODULE_VERSION(UBLK_VERSION);
MODULE_LICENSE("GPL");
