// SPDX-License-Identifier: GPL-2.0
/*
 * Does one thing that a driver must not do, as the parameter `fault` names it, so that it is known
 * whether a debug kernel notices. Without a fault it does the same things properly.
 */
#include <linux/delay.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/timer.h>

#define LEAKED_OBJECTS	16
#define OBJECT_BYTES	200

struct row {
	int values[4];
	int after[4];
};

static char *fault = "none";
module_param(fault, charp, 0);
MODULE_PARM_DESC(fault, "what to do wrong");

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);
static DEFINE_SPINLOCK(spin);
static int __rcu *guarded;
static unsigned int beyond = 5;

static void do_nothing(struct timer_list *timer)
{
}

static void leak(bool wrong)
{
	int i;

	for (i = 0; i < LEAKED_OBJECTS; i++) {
		void *object = kmalloc(OBJECT_BYTES, GFP_KERNEL);

		if (!wrong)
			kfree(object);
	}
}

static void use_after_free(bool wrong)
{
	char *object = kzalloc(OBJECT_BYTES, GFP_KERNEL);

	if (!object)
		return;
	OPTIMIZER_HIDE_VAR(object);
	if (!wrong)
		READ_ONCE(object[0]);
	kfree(object);
	if (wrong)
		READ_ONCE(object[0]);
}

static void lock_order(bool wrong)
{
	mutex_lock(&first);
	mutex_lock(&second);
	mutex_unlock(&second);
	mutex_unlock(&first);

	mutex_lock(wrong ? &second : &first);
	mutex_lock(wrong ? &first : &second);
	mutex_unlock(&first);
	mutex_unlock(&second);
}

static void sleep_under_spinlock(bool wrong)
{
	spin_lock(&spin);
	if (wrong)
		msleep(1);
	spin_unlock(&spin);
}

static void rcu_without_lock(bool wrong)
{
	if (!wrong)
		rcu_read_lock();
	rcu_dereference(guarded);
	if (!wrong)
		rcu_read_unlock();
}

static void out_of_bounds(bool wrong)
{
	struct row row = {};
	unsigned int index = wrong ? READ_ONCE(beyond) : 0;

	/* Within the structure, so that this is not for KASAN to see. */
	WRITE_ONCE(row.values[index], 1);
}

static void list_twice(bool wrong)
{
	LIST_HEAD(list);
	struct list_head entry;

	list_add(&entry, &list);
	if (wrong)
		list_add(&entry, &list);
}

static void free_active_timer(bool wrong)
{
	struct timer_list *timer = kmalloc(sizeof(*timer), GFP_KERNEL);

	if (!timer)
		return;
	timer_setup(timer, do_nothing, 0);
	if (wrong)
		mod_timer(timer, jiffies + 60 * HZ);
	kfree(timer);
}

static const struct {
	const char *name;
	void (*act)(bool wrong);
} acts[] = {
	{ "leak", leak },
	{ "use_after_free", use_after_free },
	{ "lock_order", lock_order },
	{ "sleep_under_spinlock", sleep_under_spinlock },
	{ "rcu_without_lock", rcu_without_lock },
	{ "out_of_bounds", out_of_bounds },
	{ "list_twice", list_twice },
	{ "free_active_timer", free_active_timer },
};

static int __init faults_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(acts); i++)
		acts[i].act(strcmp(acts[i].name, fault) == 0);
	return 0;
}

static void __exit faults_exit(void)
{
}

module_init(faults_init);
module_exit(faults_exit);
MODULE_DESCRIPTION("Provokes the reports of a debug kernel");
MODULE_LICENSE("GPL");
