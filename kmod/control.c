// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/mapdev: each open is a control, through which an author makes a device, answers its
 * requests, and manages its memory.
 *
 * The control lives as long as its file, its device, and the device's open files. Its last close
 * removes the device. What the author has mapped through it (map_offset) does not keep it open:
 * such an area holds the memory only.
 */
#include <linux/capability.h>
#include <linux/module.h>
#include <linux/pid_namespace.h>
#include <linux/poll.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "mapdev.h"

#define MAPDEV_COPY_CHUNK	(16 * PAGE_SIZE)

/* -- its memories, by id --------------------------------------------------------------------- */

/* Give a memory an id, which is not used again soon. The table holds a reference of its own. */
int mapdev_control_register(struct mapdev_control *control, struct mapdev_mem *memory)
{
	u32 id;
	int error;

	mapdev_memory_get(memory);
	error = xa_alloc_cyclic(&control->memories, &id, memory,
				XA_LIMIT(1, MAPDEV_MAX_MEMORIES), &control->next_id, GFP_KERNEL);
	if (error < 0) {
		mapdev_memory_put(memory);
		return error == -EBUSY ? -ENOSPC : error;
	}
	memory->id = id;
	return 0;
}

/* Unless the author has put it already. */
void mapdev_control_forget(struct mapdev_control *control, struct mapdev_mem *memory)
{
	if (xa_cmpxchg(&control->memories, memory->id, memory, NULL, GFP_KERNEL) == memory)
		mapdev_memory_put(memory);
}

/* The memory of an id, with a reference; or NULL. */
struct mapdev_mem *mapdev_control_memory(struct mapdev_control *control, u64 id)
{
	struct mapdev_mem *memory;

	if (id > MAPDEV_MAX_MEMORIES)
		return NULL;
	xa_lock(&control->memories);
	memory = mapdev_memory_get(xa_load(&control->memories, id));
	xa_unlock(&control->memories);
	return memory;
}

/* -- life ------------------------------------------------------------------------------------ */

static int mapdev_control_open(struct inode *inode, struct file *file)
{
	struct mapdev_control *control = kzalloc(sizeof(*control), GFP_KERNEL_ACCOUNT);

	if (!control)
		return -ENOMEM;
	kref_init(&control->ref);
	mutex_init(&control->lock);
	mapdev_queue_init(&control->queue);
	xa_init_flags(&control->memories, XA_FLAGS_ALLOC1 | XA_FLAGS_ACCOUNT);
	control->pid_ns = get_pid_ns(task_active_pid_ns(current));
	control->cred = get_cred(file->f_cred);
	if (current->mm) {
		mmgrab(current->mm);
		control->mm = current->mm;
	}
	file->private_data = control;
	return stream_open(inode, file);
}

static void mapdev_control_free(struct kref *ref)
{
	struct mapdev_control *control = container_of(ref, struct mapdev_control, ref);

	xa_destroy(&control->memories);
	put_pid_ns(control->pid_ns);
	put_cred(control->cred);
	if (control->mm)
		mmdrop(control->mm);
	kfree(control);
}

void mapdev_control_put(struct mapdev_control *control)
{
	kref_put(&control->ref, mapdev_control_free);
}

static int mapdev_control_release(struct inode *inode, struct file *file)
{
	struct mapdev_control *control = file->private_data;
	struct mapdev_mem *memory;
	unsigned long id;

	if (control->device) {
		mapdev_device_remove(control->device);
		put_device(&control->device->dev);
	}
	xa_for_each(&control->memories, id, memory)
		mapdev_control_forget(control, memory);
	mapdev_control_put(control);
	return 0;
}

/* -- requests and replies -------------------------------------------------------------------- */

static struct mapdev_device *mapdev_control_device(struct mapdev_control *control)
{
	return smp_load_acquire(&control->device);
}

static ssize_t mapdev_control_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct mapdev_control *control = iocb->ki_filp->private_data;
	struct mm_struct *mm = current->mm;
	bool nonblock = iocb->ki_filp->f_flags & O_NONBLOCK || iocb->ki_flags & IOCB_NOWAIT;

	if (!mapdev_control_device(control))
		return -ENODEV;
	if (mm && READ_ONCE(control->mm) != mm) {
		mmgrab(mm);
		spin_lock(&control->queue.lock);
		swap(control->mm, mm);
		spin_unlock(&control->queue.lock);
		if (mm)
			mmdrop(mm);
	}
	return mapdev_queue_read(&control->queue, to, nonblock);
}

static ssize_t mapdev_control_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	return mapdev_queue_reply(iocb->ki_filp->private_data, from);
}

static __poll_t mapdev_control_poll(struct file *file, poll_table *wait)
{
	struct mapdev_control *control = file->private_data;

	if (!mapdev_control_device(control))
		return EPOLLERR;
	return mapdev_queue_poll(&control->queue, file, wait);
}

static int mapdev_control_mmap(struct file *file, struct vm_area_struct *vma)
{
	const unsigned int bits = MAPDEV_LENGTH_BITS - PAGE_SHIFT;
	struct mapdev_mem *memory;
	int error;

	memory = mapdev_control_memory(file->private_data, vma->vm_pgoff >> bits);
	if (!memory)
		return -EINVAL;
	error = mapdev_area_map(vma, memory, NULL, vma->vm_pgoff & ((1UL << bits) - 1));
	mapdev_memory_put(memory);
	return error;
}

/* -- ioctls ---------------------------------------------------------------------------------- */

static int mapdev_version(void __user *argp)
{
	struct mapdev_version version = {
		.major = MAPDEV_VERSION_MAJOR,
		.minor = MAPDEV_VERSION_MINOR,
		.memory_kinds = 1 << MAPDEV_MEM_ARRAY | 1 << MAPDEV_MEM_VMALLOC |
				1 << MAPDEV_MEM_CONTIGUOUS | 1 << MAPDEV_MEM_FAULT,
		.max_bytes = mapdev_max_bytes,
		.used_bytes = mapdev_memory_used(),
	};

	if (IS_ENABLED(CONFIG_SHMEM))
		version.memory_kinds |= 1 << MAPDEV_MEM_MEMFD;
	if (mapdev_dma_device())
		version.memory_kinds |= 1 << MAPDEV_MEM_DMA;
	return copy_to_user(argp, &version, sizeof(version)) ? -EFAULT : 0;
}

static void mapdev_tell_memory(struct mapdev_memory *told, const struct mapdev_mem *memory)
{
	told->id = memory->id;
	told->map_offset = (u64)memory->id << MAPDEV_LENGTH_BITS;
}

static int mapdev_control_new_memory(struct mapdev_control *control, void __user *argp)
{
	struct mapdev_memory_plan plan;
	struct mapdev_memory asked;
	struct mapdev_mem *memory;
	int error;

	if (copy_from_user(&asked, argp, sizeof(asked)))
		return -EFAULT;
	error = mapdev_memory_plan(&plan, &asked);
	if (error)
		return error;
	memory = mapdev_memory_new(&plan);
	mapdev_memory_unplan(&plan);
	if (IS_ERR(memory))
		return PTR_ERR(memory);
	error = mapdev_control_register(control, memory);
	if (!error) {
		mapdev_tell_memory(&asked, memory);
		if (copy_to_user(argp, &asked, sizeof(asked))) {
			mapdev_control_forget(control, memory);
			error = -EFAULT;
		}
	}
	mapdev_memory_put(memory);
	return error;
}

static int mapdev_control_create(struct mapdev_control *control, void __user *argp)
{
	struct mapdev_create *create = memdup_user(argp, sizeof(*create));
	struct mapdev_device *device;
	int error = -EBUSY;

	if (IS_ERR(create))
		return PTR_ERR(create);
	mutex_lock(&control->lock);
	if (control->device)
		goto unlock;
	device = mapdev_device_new(control, create);
	error = PTR_ERR_OR_ZERO(device);
	if (error)
		goto unlock;
	create->memory.id = 0;
	create->memory.map_offset = 0;
	if (device->memory)
		mapdev_tell_memory(&create->memory, device->memory);
	if (copy_to_user(argp, create, sizeof(*create))) {
		error = -EFAULT;
		if (device->memory)
			mapdev_control_forget(control, device->memory);
		mapdev_device_remove(device);
	} else if (device->control) {
		get_device(&device->dev);
		smp_store_release(&control->device, device);
		wake_up_all(&control->queue.readers);
	}
	put_device(&device->dev);
unlock:
	mutex_unlock(&control->lock);
	kfree(create);
	return error;
}

static int mapdev_control_put_memory(struct mapdev_control *control, void __user *argp)
{
	struct mapdev_mem *memory;
	u64 id;

	if (copy_from_user(&id, argp, sizeof(id)))
		return -EFAULT;
	memory = id <= MAPDEV_MAX_MEMORIES ? xa_erase(&control->memories, id) : NULL;
	if (!memory)
		return -ENOENT;
	mapdev_memory_put(memory);
	return 0;
}

static int mapdev_control_unmap(struct mapdev_control *control, void __user *argp, bool drop)
{
	struct mapdev_range range;
	struct mapdev_mem *memory;
	u64 length;
	int error = -EINVAL;

	if (copy_from_user(&range, argp, sizeof(range)))
		return -EFAULT;
	memory = mapdev_control_memory(control, range.memory);
	if (!memory)
		return -ENOENT;
	length = (u64)memory->npages << PAGE_SHIFT;
	if (!PAGE_ALIGNED(range.offset) || !PAGE_ALIGNED(range.length) || range.offset >= length ||
	    range.length > length - range.offset)
		goto put;
	if (!range.length)
		range.length = length - range.offset;
	mapdev_memory_unmap(memory, range.offset >> PAGE_SHIFT, range.length >> PAGE_SHIFT, drop);
	error = 0;
put:
	mapdev_memory_put(memory);
	return error;
}

/*
 * Copy from or to the memory of a program that waits. With access_process_vm(), by the author:
 * the other way, waking the program up for it, would save nothing, as the author would wait in
 * any case.
 */
static int mapdev_control_copy(struct mapdev_control *control, void __user *argp, bool store)
{
	struct mapdev_user_copy copy;
	struct mapdev_call *call;
	size_t done = 0, part;
	void *chunk;
	int error;

	if (copy_from_user(&copy, argp, sizeof(copy)))
		return -EFAULT;
	if (copy.length > MAPDEV_MAX_TRANSFER)
		return -EINVAL;
	call = mapdev_queue_find(&control->queue, copy.unique);
	if (!call)
		return -ENOENT;
	error = -EINVAL;
	if (!call->task)
		goto put;
	error = -EFAULT;
	if (copy.address > ULONG_MAX - copy.length)
		goto put;
	error = -ENOMEM;
	chunk = kvmalloc(MAPDEV_COPY_CHUNK, GFP_KERNEL_ACCOUNT);
	if (!chunk)
		goto put;

	error = 0;
	for (; done < copy.length && !error; done += part) {
		void __user *buffer = u64_to_user_ptr(copy.buffer + done);

		part = min_t(size_t, copy.length - done, MAPDEV_COPY_CHUNK);
		if (store && copy_from_user(chunk, buffer, part))
			error = -EFAULT;
		else if (access_process_vm(call->task, copy.address + done, chunk, part,
					   store ? FOLL_WRITE : 0) != part)
			error = -EFAULT;
		else if (!store && copy_to_user(buffer, chunk, part))
			error = -EFAULT;
	}
	kvfree(chunk);
put:
	mapdev_call_put(call);
	return error;
}

static int mapdev_control_wake(struct mapdev_control *control, void __user *argp)
{
	struct mapdev_device *device = mapdev_control_device(control);
	struct mapdev_wake wake;

	if (copy_from_user(&wake, argp, sizeof(wake)))
		return -EFAULT;
	if (wake.reserved || wake.events & ~(u32)MAPDEV_POLL_MASK)
		return -EINVAL;
	if (!device)
		return -ENODEV;
	mapdev_files_wake(device, wake.file,
			  (__force __poll_t)(wake.events ?: MAPDEV_POLL_MASK));
	return 0;
}

static int mapdev_control_page(struct mapdev_control *control, void __user *argp)
{
	struct mapdev_page page;
	struct mapdev_mem *memory;
	int error;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (copy_from_user(&page, argp, sizeof(page)))
		return -EFAULT;
	memory = mapdev_control_memory(control, page.memory);
	if (!memory)
		return -ENOENT;
	error = mapdev_memory_physical(memory, page.pgoff, &page.physical);
	mapdev_memory_put(memory);
	if (!error && copy_to_user(argp, &page, sizeof(page)))
		error = -EFAULT;
	return error;
}

static int mapdev_control_info(void __user *argp)
{
	struct mapdev_info *info = memdup_user(argp, sizeof(*info));
	int error;

	if (IS_ERR(info))
		return PTR_ERR(info);
	error = mapdev_device_info(info);
	if (!error && copy_to_user(argp, info, sizeof(*info)))
		error = -EFAULT;
	kfree(info);
	return error;
}

static int mapdev_control_remove(void __user *argp)
{
	struct mapdev_remove remove;

	if (copy_from_user(&remove, argp, sizeof(remove)))
		return -EFAULT;
	if (remove.reserved || remove.flags & ~MAPDEV_PROC ||
	    strnlen(remove.name, sizeof(remove.name)) == sizeof(remove.name))
		return -EINVAL;
	return mapdev_device_remove_named(&remove);
}

static long mapdev_control_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct mapdev_control *control = file->private_data;
	void __user *argp = (void __user *)arg;

	switch (cmd) {
	case MAPDEV_IOC_VERSION:
		return mapdev_version(argp);
	case MAPDEV_IOC_CREATE:
		return mapdev_control_create(control, argp);
	case MAPDEV_IOC_MEMORY:
		return mapdev_control_new_memory(control, argp);
	case MAPDEV_IOC_PUT:
		return mapdev_control_put_memory(control, argp);
	case MAPDEV_IOC_REVOKE:
		return mapdev_control_unmap(control, argp, true);
	case MAPDEV_IOC_WRPROTECT:
		return mapdev_control_unmap(control, argp, false);
	case MAPDEV_IOC_FETCH:
		return mapdev_control_copy(control, argp, false);
	case MAPDEV_IOC_STORE:
		return mapdev_control_copy(control, argp, true);
	case MAPDEV_IOC_WAKE:
		return mapdev_control_wake(control, argp);
	case MAPDEV_IOC_PAGE:
		return mapdev_control_page(control, argp);
	case MAPDEV_IOC_INFO:
		return mapdev_control_info(argp);
	case MAPDEV_IOC_REMOVE:
		return mapdev_control_remove(argp);
	default:
		return -ENOTTY;
	}
}

const struct file_operations mapdev_control_fops = {
	.owner = THIS_MODULE,
	.open = mapdev_control_open,
	.release = mapdev_control_release,
	.read_iter = mapdev_control_read_iter,
	.write_iter = mapdev_control_write_iter,
	.poll = mapdev_control_poll,
	.mmap = mapdev_control_mmap,
	.unlocked_ioctl = mapdev_control_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};
