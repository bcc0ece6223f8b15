// SPDX-License-Identifier: GPL-2.0-only
/*
 * Devices: their names in /dev and /proc, their open files, and the operations of these.
 *
 * struct mapdev_device is counted by its struct device, for /proc too, where that is never added.
 * It is on the list from before its name appears until after the name has gone, so that nobody is
 * given a name that is still there.
 *
 * A /proc file is opened through proc's operations, which then are replaced by ours, as for
 * character devices: otherwise remove_proc_entry() would wait for every call that waits, and
 * later calls would be EIO.
 */
#include <linux/capability.h>
#include <linux/compat.h>
#include <linux/idr.h>
#include <linux/kdev_t.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/pid.h>
#include <linux/poll.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "mapdev.h"

#define MAPDEV_MINORS	4096
#define MAPDEV_FLAGS	(MAPDEV_PROC | MAPDEV_PER_OPEN | MAPDEV_PERSIST | MAPDEV_DEVT)
#define MAPDEV_OPS	(MAPDEV_OP(MAPDEV_VM_FAULT + 1) - MAPDEV_OP(MAPDEV_OPEN))

static LIST_HEAD(mapdev_devices);
static DEFINE_MUTEX(mapdev_devices_lock);
static DEFINE_IDA(mapdev_minors);
static dev_t mapdev_devt;
static atomic64_t mapdev_last_file = ATOMIC64_INIT(0);

/* -- open files ------------------------------------------------------------------------------ */

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

static int mapdev_file_fasync(int fd, struct file *file, int on)
{
	struct mapdev_file *mf = file->private_data;

	return fasync_helper(fd, file, on, &mf->fasync);
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

static int mapdev_cdev_open(struct inode *inode, struct file *file)
{
	return mapdev_open(container_of(inode->i_cdev, struct mapdev_device, cdev), inode, file);
}

static const struct file_operations mapdev_file_fops = {
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

static const struct proc_ops mapdev_proc_ops = {
	.proc_open = mapdev_proc_open,
};

/* -- names ----------------------------------------------------------------------------------- */

static void mapdev_device_release(struct device *dev)
{
	struct mapdev_device *device = container_of(dev, struct mapdev_device, dev);

	if (device->control)
		mapdev_control_put(device->control);
	mapdev_memory_put(device->memory);
	mapdev_memory_unplan(&device->plan);
	put_pid(device->pid);
	kfree(device);
}

static char *mapdev_devnode(mapdev_devnode_const struct device *dev, umode_t *mode, kuid_t *uid,
			    kgid_t *gid)
{
	const struct mapdev_device *device = container_of(dev, struct mapdev_device, dev);

	if (mode)
		*mode = S_IFCHR | device->mode;
	if (uid)
		*uid = device->uid;
	if (gid)
		*gid = device->gid;
	return NULL;
}

static const struct device_type mapdev_type = {
	.name = "mapdev",
	.devnode = mapdev_devnode,
	.release = mapdev_device_release,
};

static struct class mapdev_class = {
	.name = "mapdev",
};

/*
 * Whether a name is there: proc warns with a backtrace of one that is, devtmpfs makes no node and
 * says nothing. Looked up in the file system itself, not where the caller sees it mounted.
 */
static int mapdev_name_free(const char *fs, const char *name)
{
	struct file_system_type *type = get_fs_type(fs);
	struct vfsmount *mnt;
	struct path path;
	int error;

	if (!type)
		return 0;
	mnt = kern_mount(type);
	module_put(type->owner);
	if (IS_ERR(mnt))
		return PTR_ERR(mnt);
	error = vfs_path_lookup(mnt->mnt_root, mnt, name, 0, &path);
	if (!error)
		path_put(&path);
	kern_unmount(mnt);
	return error == -ENOENT ? 0 : error ?: -EEXIST;
}

static int mapdev_check_name(const char *name)
{
	size_t len = strnlen(name, MAPDEV_NAME_MAX + 1);

	if (!len || memchr_inv(name + len, 0, MAPDEV_NAME_MAX + 1 - len) || len > MAPDEV_NAME_MAX)
		return -EINVAL;
	/* '!' stands for '/' in the name of a struct device */
	if (strpbrk(name, "/!") || !strcmp(name, ".") || !strcmp(name, ".."))
		return -EINVAL;
	return 0;
}

static struct mapdev_device *mapdev_find_name(const char *name, bool proc)
{
	struct mapdev_device *device;

	lockdep_assert_held(&mapdev_devices_lock);
	list_for_each_entry(device, &mapdev_devices, link)
		if (proc == !!(device->flags & MAPDEV_PROC) && !strcmp(device->name, name))
			return device;
	return NULL;
}

static int mapdev_add_proc(struct mapdev_device *device, u64 size)
{
	device->pde = proc_create_data(device->name, device->mode, NULL, &mapdev_proc_ops, device);
	if (!device->pde)
		return -ENOMEM;
	proc_set_user(device->pde, device->uid, device->gid);
	proc_set_size(device->pde, size);
	return 0;
}

static int mapdev_add_cdev(struct mapdev_device *device, u32 major, u32 minor)
{
	int error;

	if (device->flags & MAPDEV_DEVT) {
		if (!major || major > MAJOR(~0U) || minor > MINORMASK)
			return -EINVAL;
		device->dev.devt = MKDEV(major, minor);
		error = register_chrdev_region(device->dev.devt, 1, device->name);
		if (error)
			return error;
	} else {
		device->minor = ida_alloc_max(&mapdev_minors, MAPDEV_MINORS - 1, GFP_KERNEL);
		if (device->minor < 0)
			return device->minor == -ENOSPC ? -EMFILE : device->minor;
		device->dev.devt = MKDEV(MAJOR(mapdev_devt), device->minor);
	}
	cdev_init(&device->cdev, &mapdev_file_fops);
	device->cdev.owner = THIS_MODULE;
	error = cdev_device_add(&device->cdev, &device->dev);
	if (!error)
		return 0;
	if (device->minor >= 0)
		ida_free(&mapdev_minors, device->minor);
	else
		unregister_chrdev_region(device->dev.devt, 1);
	return error;
}

static int mapdev_check_create(const struct mapdev_create *create, bool *memory)
{
	const struct mapdev_memory *asked = &create->memory;
	u32 flags = create->flags;

	if (create->version != MAPDEV_VERSION_MAJOR || flags & ~MAPDEV_FLAGS ||
	    create->ops & ~MAPDEV_OPS || create->mode & ~0777 || create->size > LLONG_MAX ||
	    memchr_inv(create->reserved, 0, sizeof(create->reserved)))
		return -EINVAL;
	if (flags & MAPDEV_PERSIST && create->ops)
		return -EINVAL;
	if (flags & MAPDEV_PROC && flags & MAPDEV_DEVT)
		return -EINVAL;

	*memory = asked->kind != MAPDEV_MEM_NONE;
	if (!*memory)
		return flags & MAPDEV_PER_OPEN || asked->length || asked->init_len ? -EINVAL : 0;
	if (flags & MAPDEV_PER_OPEN &&
	    (asked->kind == MAPDEV_MEM_MEMFD || asked->kind == MAPDEV_MEM_FAULT))
		return -EINVAL;
	if (asked->kind == MAPDEV_MEM_FAULT && !(create->ops & MAPDEV_OP(MAPDEV_FAULT)))
		return -EINVAL;
	return 0;
}

static int mapdev_device_memory(struct mapdev_control *control, struct mapdev_device *device,
				const struct mapdev_memory *asked)
{
	struct mapdev_mem *memory;
	int error = mapdev_memory_plan(&device->plan, asked);

	if (error)
		return error;
	device->kind = asked->kind;
	device->length = asked->length;
	if (device->flags & MAPDEV_PER_OPEN)
		return 0;
	memory = mapdev_memory_new(&device->plan);
	mapdev_memory_unplan(&device->plan);
	if (IS_ERR(memory))
		return PTR_ERR(memory);
	device->memory = memory;
	return mapdev_control_register(control, memory);
}

/* Make a device as asked for. The reference is the caller's. */
struct mapdev_device *mapdev_device_new(struct mapdev_control *control,
					struct mapdev_create *create)
{
	bool proc = create->flags & MAPDEV_PROC, memory;
	struct mapdev_device *device;
	int error;

	error = mapdev_check_create(create, &memory) ?: mapdev_check_name(create->name);
	if (error)
		return ERR_PTR(error);
	device = kzalloc(sizeof(*device), GFP_KERNEL_ACCOUNT);
	if (!device)
		return ERR_PTR(-ENOMEM);

	device_initialize(&device->dev);
	device->dev.type = &mapdev_type;
	device->dev.class = &mapdev_class;
	INIT_LIST_HEAD(&device->link);
	INIT_LIST_HEAD(&device->files);
	spin_lock_init(&device->files_lock);
	strscpy(device->name, create->name, sizeof(device->name));
	device->flags = create->flags;
	device->ops = create->ops;
	device->mode = create->mode;
	device->timeout_ms = create->timeout_ms;
	device->uid = make_kuid(current_user_ns(), create->uid);
	device->gid = make_kgid(current_user_ns(), create->gid);
	device->creator = current_euid();
	device->pid = get_pid(task_tgid(current));
	device->minor = -1;
	if (!(create->flags & MAPDEV_PERSIST)) {
		kref_get(&control->ref);
		device->control = control;
	}
	error = -EINVAL;
	if (!uid_valid(device->uid) || !gid_valid(device->gid))
		goto put;
	error = dev_set_name(&device->dev, "%s", device->name);
	if (!error && memory)
		error = mapdev_device_memory(control, device, &create->memory);
	if (error)
		goto forget;

	mutex_lock(&mapdev_devices_lock);
	error = mapdev_find_name(device->name, proc) ? -EEXIST :
		mapdev_name_free(proc ? "proc" : "devtmpfs", device->name);
	if (!error)
		error = proc ? mapdev_add_proc(device, create->size) :
			       mapdev_add_cdev(device, create->major, create->minor);
	if (error) {
		mutex_unlock(&mapdev_devices_lock);
		goto forget;
	}
	list_add_tail(&device->link, &mapdev_devices);
	get_device(&device->dev);	/* of the list */
	if (create->flags & MAPDEV_PERSIST)
		__module_get(THIS_MODULE);
	mutex_unlock(&mapdev_devices_lock);

	create->major = MAJOR(device->dev.devt);
	create->minor = MINOR(device->dev.devt);
	return device;

forget:
	if (device->memory)
		mapdev_control_forget(control, device->memory);
put:
	put_device(&device->dev);
	return ERR_PTR(error);
}

/*
 * Take the name away and end all waiting. The object lives on in the files that are open. Once.
 */
void mapdev_device_remove(struct mapdev_device *device)
{
	struct mapdev_file *mf;
	bool was;

	mutex_lock(&mapdev_devices_lock);
	was = device->gone;
	WRITE_ONCE(device->gone, true);
	mutex_unlock(&mapdev_devices_lock);
	if (was)
		return;

	if (device->control)
		mapdev_queue_abort(&device->control->queue);
	spin_lock(&device->files_lock);
	list_for_each_entry(mf, &device->files, link) {
		wake_up_poll(&mf->wait, EPOLLERR | EPOLLHUP | EPOLLIN | EPOLLOUT);
		kill_fasync(&mf->fasync, SIGIO, POLL_HUP);
	}
	spin_unlock(&device->files_lock);

	/* waits for opens that are under way, which cannot wait for the author any more */
	if (device->pde)
		proc_remove(device->pde);
	else
		cdev_device_del(&device->cdev, &device->dev);
	if (device->minor >= 0)
		ida_free(&mapdev_minors, device->minor);
	else if (!device->pde)
		unregister_chrdev_region(device->dev.devt, 1);

	mutex_lock(&mapdev_devices_lock);
	list_del(&device->link);
	mutex_unlock(&mapdev_devices_lock);
	if (device->flags & MAPDEV_PERSIST)
		module_put(THIS_MODULE);	/* the caller has a file of ours open */
	put_device(&device->dev);
}

int mapdev_device_remove_named(const struct mapdev_remove *remove)
{
	struct mapdev_device *device;
	int error = 0;

	mutex_lock(&mapdev_devices_lock);
	device = mapdev_find_name(remove->name, remove->flags & MAPDEV_PROC);
	if (!device || device->gone)
		error = -ENOENT;
	else if (!uid_eq(device->creator, current_euid()) && !capable(CAP_SYS_ADMIN))
		error = -EPERM;
	else if (!(device->flags & MAPDEV_PERSIST))
		error = -EBUSY;		/* goes with its control */
	else
		get_device(&device->dev);
	mutex_unlock(&mapdev_devices_lock);
	if (error)
		return error;
	mapdev_device_remove(device);
	put_device(&device->dev);
	return 0;
}

void mapdev_device_wake(struct mapdev_device *device, u64 file, __poll_t events)
{
	struct mapdev_file *mf;

	spin_lock(&device->files_lock);
	list_for_each_entry(mf, &device->files, link)
		if (!file || mf->id == file) {
			wake_up_poll(&mf->wait, events);
			kill_fasync(&mf->fasync, SIGIO, events & EPOLLIN ? POLL_IN : POLL_OUT);
		}
	spin_unlock(&device->files_lock);
}

int mapdev_device_info(struct mapdev_info *info)
{
	struct mapdev_device *device;
	u64 index = info->index;

	memset(info, 0, sizeof(*info));
	info->index = index;
	mutex_lock(&mapdev_devices_lock);
	list_for_each_entry(device, &mapdev_devices, link) {
		if (index--)
			continue;
		strscpy(info->name, device->name, sizeof(info->name));
		info->flags = device->flags;
		info->mode = device->mode;
		info->major = MAJOR(device->dev.devt);
		info->minor = MINOR(device->dev.devt);
		info->length = device->length;
		info->kind = device->kind;
		info->files = READ_ONCE(device->nfiles);
		info->ops = device->ops;
		info->pid = pid_vnr(device->pid);
		info->uid = from_kuid_munged(current_user_ns(), device->creator);
		mutex_unlock(&mapdev_devices_lock);
		return 0;
	}
	mutex_unlock(&mapdev_devices_lock);
	return -ENOENT;
}

int mapdev_devices_init(void)
{
	int error = alloc_chrdev_region(&mapdev_devt, 0, MAPDEV_MINORS, "mapdev");

	if (error)
		return error;
	error = class_register(&mapdev_class);
	if (error)
		unregister_chrdev_region(mapdev_devt, MAPDEV_MINORS);
	return error;
}

void mapdev_devices_exit(void)
{
	class_unregister(&mapdev_class);
	unregister_chrdev_region(mapdev_devt, MAPDEV_MINORS);
	ida_destroy(&mapdev_minors);
}
