// SPDX-License-Identifier: GPL-2.0-only
/*
 * The open files of devices, and what programs do with them: each operation that the author
 * answers becomes a request, the others act on the memory, or fail as a driver without them.
 *
 * A /proc file is opened through proc's operations, which then are replaced by ours, as for
 * character devices: otherwise remove_proc_entry() would wait for every call that waits, and
 * later calls would be EIO.
 */
#include <linux/compat.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "mapdev.h"

static atomic64_t mapdev_last_file = ATOMIC64_INIT(0);

/* -- life ------------------------------------------------------------------------------------ */

static void mapdev_file_free(struct mapdev_file *mf)
{
	struct mapdev_device *device = mf->device;

	if (mf->memory && mf->memory != device->memory && device->control)
		mapdev_control_forget(device->control, mf->memory);
	mapdev_memory_put(mf->memory);
	kfree(mf->release);
	kfree(mf);
	put_device(&device->dev);
}

/* Memory for a file: what the device has for all, or some of its own. */
static int mapdev_file_bind(struct mapdev_file *mf)
{
	struct mapdev_device *device = mf->device;
	struct mapdev_mem *memory;

	if (!(device->flags & MAPDEV_PER_OPEN)) {
		mf->memory = mapdev_memory_get(device->memory);
		return 0;
	}
	memory = mapdev_memory_new(&device->plan);
	if (IS_ERR(memory))
		return PTR_ERR(memory);
	mf->memory = memory;
	return device->control ? mapdev_control_register(device->control, memory) : 0;
}

static int mapdev_ask_open(struct mapdev_file *mf, struct inode *inode)
{
	struct mapdev_call *call = mapdev_call_new(mf, MAPDEV_OPEN, 0, 0);
	int error;

	if (IS_ERR(call))
		return PTR_ERR(call);
	error = mapdev_call_ask(mf, call);
	if (!error && call->flags & MAPDEV_REPLY_STREAM)
		stream_open(inode, mf->file);
	else if (!error && call->flags & MAPDEV_REPLY_NONSEEKABLE)
		nonseekable_open(inode, mf->file);
	mapdev_call_put(call);
	return error;
}

static int mapdev_open(struct mapdev_device *device, struct inode *inode, struct file *file)
{
	struct mapdev_file *mf;
	int error = -ENOMEM;

	if (READ_ONCE(device->gone))
		return -ENODEV;
	mf = kzalloc(sizeof(*mf), GFP_KERNEL_ACCOUNT);
	if (!mf)
		return -ENOMEM;
	get_device(&device->dev);
	mf->device = device;
	mf->file = file;
	mf->id = atomic64_inc_return(&mapdev_last_file);
	init_waitqueue_head(&mf->wait);
	if (mapdev_asks(mf, MAPDEV_RELEASE)) {
		mf->release = mapdev_notice_new(GFP_KERNEL_ACCOUNT);
		if (!mf->release)
			goto free;
	}
	error = mapdev_file_bind(mf);
	if (!error && mapdev_asks(mf, MAPDEV_OPEN))
		error = mapdev_ask_open(mf, inode);
	if (error)
		goto free;

	file->private_data = mf;
	spin_lock(&device->files_lock);
	list_add_tail(&mf->link, &device->files);
	device->nfiles++;
	spin_unlock(&device->files_lock);
	return 0;

free:
	mapdev_file_free(mf);
	return error;
}

static int mapdev_file_release(struct inode *inode, struct file *file)
{
	struct mapdev_file *mf = file->private_data;
	struct mapdev_device *device = mf->device;

	spin_lock(&device->files_lock);
	list_del(&mf->link);
	device->nfiles--;
	spin_unlock(&device->files_lock);
	if (mf->release)
		mapdev_notice_send(mf, mf->release, MAPDEV_RELEASE, 0);
	mf->release = NULL;
	mapdev_file_free(mf);
	return 0;
}

/* -- operations ------------------------------------------------------------------------------ */

static loff_t mapdev_file_llseek(struct file *file, loff_t offset, int whence)
{
	struct mapdev_file *mf = file->private_data;

	if (mf->memory)
		return fixed_size_llseek(file, offset, whence,
					 (loff_t)mf->memory->npages << PAGE_SHIFT);
	return default_llseek(file, offset, whence);
}

static ssize_t mapdev_file_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct mapdev_file *mf = iocb->ki_filp->private_data;
	struct mapdev_call *call;
	ssize_t n;

	if (mapdev_gone(mf))
		return -ENODEV;
	if (iocb->ki_flags & IOCB_NOWAIT)
		return -EAGAIN;		/* whether it waits is not known */
	if (!mapdev_asks(mf, MAPDEV_READ)) {
		n = mf->memory ? mapdev_memory_io(mf, to, iocb->ki_pos, false) : -EINVAL;
		goto out;
	}
	call = mapdev_call_new(mf, MAPDEV_READ, sizeof(struct mapdev_read_in), 0);
	if (IS_ERR(call))
		return PTR_ERR(call);
	call->payload_max = min_t(size_t, iov_iter_count(to), MAPDEV_MAX_TRANSFER);
	call->message.body.read.pos = iocb->ki_pos;
	call->message.body.read.count = call->payload_max;
	n = mapdev_call_ask(mf, call);
	if (!n && copy_to_iter(call->payload, call->payload_len, to) != call->payload_len)
		n = -EFAULT;
	if (!n)
		n = call->payload_len;
	mapdev_call_put(call);
out:
	if (n > 0)
		iocb->ki_pos += n;
	return n;
}

static ssize_t mapdev_file_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	struct mapdev_file *mf = iocb->ki_filp->private_data;
	struct mapdev_call *call;
	u32 count;
	ssize_t n;

	if (mapdev_gone(mf))
		return -ENODEV;
	if (iocb->ki_flags & IOCB_NOWAIT)
		return -EAGAIN;
	if (!mapdev_asks(mf, MAPDEV_WRITE)) {
		n = mf->memory ? mapdev_memory_io(mf, from, iocb->ki_pos, true) : -EINVAL;
		goto out;
	}
	count = min_t(size_t, iov_iter_count(from), MAPDEV_MAX_TRANSFER);
	call = mapdev_call_new(mf, MAPDEV_WRITE, sizeof(struct mapdev_read_in), count);
	if (IS_ERR(call))
		return PTR_ERR(call);
	call->message.body.read.pos = iocb->ki_pos;
	call->message.body.read.count = count;
	n = -EFAULT;
	if (copy_from_iter_full(call->message.payload, count, from))
		n = mapdev_call_ask(mf, call);
	if (!n)
		n = call->value;
	mapdev_call_put(call);
out:
	if (n > 0)
		iocb->ki_pos += n;
	return n;
}

static long mapdev_ioctl(struct file *file, unsigned int cmd, unsigned long arg, u32 flags)
{
	struct mapdev_file *mf = file->private_data;
	void __user *argp = (void __user *)arg;
	u32 size = _IOC_SIZE(cmd), in_len, out_max;
	struct mapdev_call *call;
	long n;

	if (mapdev_gone(mf))
		return -ENODEV;
	if (!mapdev_asks(mf, MAPDEV_IOCTL))
		return -ENOTTY;
	in_len = _IOC_DIR(cmd) & _IOC_WRITE ? size : 0;
	out_max = _IOC_DIR(cmd) & _IOC_READ ? size : 0;
	call = mapdev_call_new(mf, MAPDEV_IOCTL, sizeof(struct mapdev_ioctl_in), in_len);
	if (IS_ERR(call))
		return PTR_ERR(call);
	call->message.body.ioctl.cmd = cmd;
	call->message.body.ioctl.flags = flags;
	call->message.body.ioctl.arg = arg;
	call->message.body.ioctl.in_len = in_len;
	call->message.body.ioctl.out_max = out_max;
	call->payload_max = out_max;
	n = -EFAULT;
	if (!copy_from_user(call->message.payload, argp, in_len))
		n = mapdev_call_ask(mf, call);
	if (!n && copy_to_user(argp, call->payload, call->payload_len))
		n = -EFAULT;
	if (!n)
		n = call->value;
	mapdev_call_put(call);
	return n;
}

static long mapdev_file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	return mapdev_ioctl(file, cmd, arg, 0);
}

#ifdef CONFIG_COMPAT
static long mapdev_file_compat_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	return mapdev_ioctl(file, cmd, (unsigned long)compat_ptr(arg), MAPDEV_IOCTL_COMPAT);
}
#endif

static __poll_t mapdev_file_poll(struct file *file, poll_table *wait)
{
	struct mapdev_file *mf = file->private_data;
	struct mapdev_call *call;
	__poll_t mask;

	poll_wait(file, &mf->wait, wait);
	if (mapdev_gone(mf))
		return EPOLLERR | EPOLLHUP;
	if (!mapdev_asks(mf, MAPDEV_POLL))
		return DEFAULT_POLLMASK;
	call = mapdev_call_new(mf, MAPDEV_POLL, sizeof(struct mapdev_poll_in), 0);
	if (IS_ERR(call))
		return EPOLLERR;
	call->message.body.poll.events = (__force u32)poll_requested_events(wait) & 0xffff;
	if (mapdev_call_ask(mf, call))
		mask = EPOLLERR | (mapdev_gone(mf) ? EPOLLHUP : 0);
	else
		mask = (__force __poll_t)call->value;
	mapdev_call_put(call);
	return mask;
}

int mapdev_file_fsync(struct file *file, loff_t start, loff_t end, int datasync)
{
	struct mapdev_file *mf = file->private_data;
	struct mapdev_call *call;
	int error;

	if (mapdev_gone(mf))
		return -ENODEV;
	if (!mapdev_asks(mf, MAPDEV_FSYNC))
		return 0;
	call = mapdev_call_new(mf, MAPDEV_FSYNC, sizeof(struct mapdev_fsync_in), 0);
	if (IS_ERR(call))
		return PTR_ERR(call);
	call->message.body.fsync.datasync = !!datasync;
	error = mapdev_call_ask(mf, call);
	mapdev_call_put(call);
	return error;
}

static int mapdev_file_fasync(int fd, struct file *file, int on)
{
	struct mapdev_file *mf = file->private_data;

	return fasync_helper(fd, file, on, &mf->fasync);
}

static int mapdev_file_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct mapdev_file *mf = file->private_data;
	struct mapdev_mem *memory;
	int error = 0;

	if (mapdev_gone(mf))
		return -ENODEV;
	if (mapdev_asks(mf, MAPDEV_MMAP))
		error = mapdev_area_ask(mf, vma, &memory);
	else
		memory = mapdev_memory_get(mf->memory);
	if (error)
		return error;
	if (!memory)
		return -ENODEV;
	error = mapdev_area_map(vma, memory, mf, vma->vm_pgoff);
	mapdev_memory_put(memory);
	return error;
}

/* -- how they are opened --------------------------------------------------------------------- */

static int mapdev_cdev_open(struct inode *inode, struct file *file)
{
	return mapdev_open(container_of(inode->i_cdev, struct mapdev_device, cdev), inode, file);
}

const struct file_operations mapdev_file_fops = {
	.owner = THIS_MODULE,
	.open = mapdev_cdev_open,
	.release = mapdev_file_release,
	.llseek = mapdev_file_llseek,
	.read_iter = mapdev_file_read_iter,
	.write_iter = mapdev_file_write_iter,
	.unlocked_ioctl = mapdev_file_ioctl,
#ifdef CONFIG_COMPAT
	.compat_ioctl = mapdev_file_compat_ioctl,
#endif
	.poll = mapdev_file_poll,
	.mmap = mapdev_file_mmap,
	.get_unmapped_area = thp_get_unmapped_area,
	.fsync = mapdev_file_fsync,
	.fasync = mapdev_file_fasync,
};

static int mapdev_proc_open(struct inode *inode, struct file *file)
{
	__module_get(THIS_MODULE);	/* the kernel puts mapdev_file_fops.owner */
	replace_fops(file, &mapdev_file_fops);
	return mapdev_open(pde_data(inode), inode, file);
}

const struct proc_ops mapdev_proc_ops = {
	.proc_open = mapdev_proc_open,
};

/* -- whoever waits for them ------------------------------------------------------------------ */

/* Something may be ready: for one file by its id, or with 0 for all. */
void mapdev_files_wake(struct mapdev_device *device, u64 id, __poll_t events)
{
	struct mapdev_file *mf;

	spin_lock(&device->files_lock);
	list_for_each_entry(mf, &device->files, link)
		if (!id || mf->id == id) {
			wake_up_poll(&mf->wait, events);
			kill_fasync(&mf->fasync, SIGIO, events & EPOLLIN ? POLL_IN : POLL_OUT);
		}
	spin_unlock(&device->files_lock);
}

/* The device is gone. */
void mapdev_files_hang_up(struct mapdev_device *device)
{
	struct mapdev_file *mf;

	spin_lock(&device->files_lock);
	list_for_each_entry(mf, &device->files, link) {
		wake_up_poll(&mf->wait, EPOLLERR | EPOLLHUP | EPOLLIN | EPOLLOUT);
		kill_fasync(&mf->fasync, SIGIO, POLL_HUP);
	}
	spin_unlock(&device->files_lock);
}
