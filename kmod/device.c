// SPDX-License-Identifier: GPL-2.0-only
/*
 * Devices: how they are made and removed, and their names in /dev and /proc.
 *
 * struct mapdev_device is counted by its struct device, for /proc too, where that is never added.
 * It is on the list from before its name appears until after the name has gone, so that nobody is
 * given a name that is still there.
 */
#include <linux/capability.h>
#include <linux/idr.h>
#include <linux/kdev_t.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/pid.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>

#include "mapdev.h"

#define MAPDEV_MINORS	4096
#define MAPDEV_FLAGS	(MAPDEV_PROC | MAPDEV_PER_OPEN | MAPDEV_PERSIST | MAPDEV_DEVT)
#define MAPDEV_OPS	(MAPDEV_OP(MAPDEV_VM_FAULT + 1) - MAPDEV_OP(MAPDEV_OPEN))

static LIST_HEAD(mapdev_devices);
static DEFINE_MUTEX(mapdev_devices_lock);
static DEFINE_IDA(mapdev_minors);
static dev_t mapdev_devt;

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

/* -- making and removing --------------------------------------------------------------------- */

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
	bool was;

	mutex_lock(&mapdev_devices_lock);
	was = device->gone;
	WRITE_ONCE(device->gone, true);
	mutex_unlock(&mapdev_devices_lock);
	if (was)
		return;

	if (device->control)
		mapdev_queue_abort(&device->control->queue);
	mapdev_files_hang_up(device);

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
