// SPDX-License-Identifier: GPL-2.0
/*
 * Bugs on purpose: insmod seeded.ko bug=NAME. A guest's kernel has to notice them, or that it is silent about other
 * modules means nothing. Never load this anywhere else.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>

#define OBJECT_SIZE 64
#define ROUNDS 50 /* KFENCE watches one allocation in 100 ms: it takes some to be the one */
#define PAUSE_MS 20

static char *bug = "none";
module_param(bug, charp, 0);
MODULE_PARM_DESC(bug, "warn, lock_inversion, leak, use_after_free or write_after_free");

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);

/* Both orders, one after the other: nothing hangs, but two threads at once might. lockdep has to see that. */
static void lock_inversion(void)
{
	mutex_lock(&first);
	mutex_lock(&second);
	mutex_unlock(&second);
	mutex_unlock(&first);
	mutex_lock(&second);
	mutex_lock(&first);
	mutex_unlock(&first);
	mutex_unlock(&second);
}

static void leak(void)
{
	int i;

	/* several: what is left in a register or on a stack looks referred to */
	for (i = 0; i < 10; i++)
		if (!kmalloc(OBJECT_SIZE, GFP_KERNEL))
			pr_err("there is no memory to lose\n");
}

/* Not inline: the report has to name it. */
static noinline void use_after_free(void)
{
	int i;

	for (i = 0; i < ROUNDS; i++) {
		volatile char *object = kmalloc(OBJECT_SIZE, GFP_KERNEL);

		kfree((void *)object);
		if (object)
			(void)object[OBJECT_SIZE / 2];
		msleep(PAUSE_MS);
	}
}

/* SLUB's poison shows it when the object is allocated again; KASAN, which keeps freed objects back, at once. */
static noinline void write_after_free(void)
{
	struct kmem_cache *cache = kmem_cache_create("seeded", OBJECT_SIZE, 0, 0, NULL);
	volatile char *object;

	if (!cache)
		return;
	object = kmem_cache_alloc(cache, GFP_KERNEL);
	if (object) {
		kmem_cache_free(cache, (void *)object);
		object[OBJECT_SIZE / 8] = 1;
		object = kmem_cache_alloc(cache, GFP_KERNEL);
	}
	if (object)
		kmem_cache_free(cache, (void *)object);
	kmem_cache_destroy(cache);
}

static int __init seeded_init(void)
{
	if (!strcmp(bug, "warn"))
		WARN(1, "seeded\n");
	else if (!strcmp(bug, "lock_inversion"))
		lock_inversion();
	else if (!strcmp(bug, "leak"))
		leak();
	else if (!strcmp(bug, "use_after_free"))
		use_after_free();
	else if (!strcmp(bug, "write_after_free"))
		write_after_free();
	else
		return -EINVAL;
	return 0;
}

static void __exit seeded_exit(void)
{
}

module_init(seeded_init);
module_exit(seeded_exit);

MODULE_DESCRIPTION("Bugs on purpose, which the lab's kernels have to notice");
MODULE_LICENSE("GPL");
