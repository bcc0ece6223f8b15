// SPDX-License-Identifier: GPL-2.0
/*
 * /proc/lkmc_mmap: memory that a driver owns, mapped by a user program.
 *
 * Every open has a page of its own, which begins with "asdf". A program may read(2), write(2) and mmap(2) it: a store
 * through a mapping, a write(2) and the driver's own store are stores to the same page, and nothing is ever copied
 * between them. Every callback logs its name, so that the kernel log tells what a program has caused.
 *
 * Lifetimes: struct buffer belongs to the open file. An area (vma) that maps it holds the file, so the buffer outlives
 * close(2) until the last munmap(2). Each page table entry holds a reference to the page besides. The open file holds
 * the module: procfs does not do that by itself, and a page fault after an rmmod would run code that is gone.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#define PROC_NAME "lkmc_mmap"
#define BUFFER_SIZE 4 /* what read and write reach; a mapping reaches the whole page */

/*
 * Since 6.3 vma->vm_flags is read-only and vm_flags_set() changes it, with the lock that this takes. Kernels before
 * that have a plain field, whether or not a stable release has vm_flags_set().
 */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static void add_vm_flags(struct vm_area_struct *vma, unsigned long flags)
{
	vma->vm_flags |= flags;
}
#else
static void add_vm_flags(struct vm_area_struct *vma, unsigned long flags)
{
	vm_flags_set(vma, flags);
}
#endif

struct buffer {
	struct page *page;
	char *data; /* the same page, as the kernel addresses it */
};

/* An area was made: by our own mmap, or by the kernel as a copy of one (fork, split, mremap). */
static void lkmc_vm_open(struct vm_area_struct *vma)
{
	pr_info("vm_open\n");
}

/* An area is gone: munmap, exit. */
static void lkmc_vm_close(struct vm_area_struct *vma)
{
	pr_info("vm_close\n");
}

/* A program touched a page of the area that is in none of its page tables yet. */
static vm_fault_t lkmc_vm_fault(struct vm_fault *vmf)
{
	struct buffer *buffer = vmf->vma->vm_private_data;

	pr_info("vm_fault\n");
	if (vmf->pgoff != 0)
		return VM_FAULT_SIGBUS; /* an area may be longer than the buffer, as with a file */
	get_page(buffer->page); /* for the page table entry that the kernel makes of it */
	vmf->page = buffer->page;
	return 0;
}

static const struct vm_operations_struct lkmc_vm_ops = {
	.open = lkmc_vm_open,
	.close = lkmc_vm_close,
	.fault = lkmc_vm_fault,
};

/* Nothing is mapped here: the area only learns who is to be asked when a page of it is touched. */
static int lkmc_mmap(struct file *file, struct vm_area_struct *vma)
{
	pr_info("mmap\n");
	if (vma->vm_pgoff != 0)
		return -EINVAL; /* the buffer is one page, and that is page 0 */
	vma->vm_ops = &lkmc_vm_ops;
	vma->vm_private_data = file->private_data;
	add_vm_flags(vma, VM_DONTEXPAND | VM_DONTDUMP);
	lkmc_vm_open(vma); /* the kernel calls it for copies only, and vm_close for all: now they pair up */
	return 0;
}

static ssize_t lkmc_read(struct file *file, char __user *to, size_t count, loff_t *pos)
{
	struct buffer *buffer = file->private_data;

	pr_info("read\n");
	return simple_read_from_buffer(to, count, pos, buffer->data, BUFFER_SIZE);
}

/* Always to the start of the page, whatever the position is, which stays; what does not fit is dropped. */
static ssize_t lkmc_write(struct file *file, const char __user *from, size_t count, loff_t *pos)
{
	struct buffer *buffer = file->private_data;

	pr_info("write\n");
	if (copy_from_user(buffer->data, from, min_t(size_t, count, BUFFER_SIZE)))
		return -EFAULT;
	return count;
}

static int lkmc_open(struct inode *inode, struct file *file)
{
	struct buffer *buffer;
	phys_addr_t physical;
	int error = -ENOMEM;

	if (!try_module_get(THIS_MODULE))
		return -ENODEV; /* rmmod is at work */
	buffer = kzalloc(sizeof(*buffer), GFP_KERNEL);
	if (!buffer)
		goto put_module;
	buffer->data = (char *)get_zeroed_page(GFP_KERNEL); /* zeroed: all of it will be seen in user space */
	if (!buffer->data)
		goto free_buffer;
	buffer->page = virt_to_page(buffer->data);
	memcpy(buffer->data, "asdf", BUFFER_SIZE);
	file->private_data = buffer;
	physical = page_to_phys(buffer->page);
	pr_info("open: page at physical address %pa\n", &physical);
	return 0;

free_buffer:
	kfree(buffer);
put_module:
	module_put(THIS_MODULE);
	return error;
}

static int lkmc_release(struct inode *inode, struct file *file)
{
	struct buffer *buffer = file->private_data;

	pr_info("release\n");
	free_page((unsigned long)buffer->data);
	kfree(buffer);
	module_put(THIS_MODULE); /* procfs waits for this function to return before the module may go */
	return 0;
}

static const struct proc_ops lkmc_proc_ops = {
	.proc_open = lkmc_open,
	.proc_release = lkmc_release,
	.proc_read = lkmc_read,
	.proc_write = lkmc_write,
	.proc_lseek = default_llseek,
	.proc_mmap = lkmc_mmap,
};

static int __init lkmc_init(void)
{
	/* 0666: an example that is to be tried without root; a real device lets its owner alone in */
	return proc_create(PROC_NAME, 0666, NULL, &lkmc_proc_ops) ? 0 : -ENOMEM;
}

static void __exit lkmc_exit(void)
{
	remove_proc_entry(PROC_NAME, NULL);
}

module_init(lkmc_init);
module_exit(lkmc_exit);

MODULE_DESCRIPTION("A page of the kernel for every open of /proc/lkmc_mmap, which programs can map");
MODULE_LICENSE("GPL");
