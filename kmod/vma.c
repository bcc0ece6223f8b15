// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mappings and page faults.
 *
 * mmap(2) of a device puts another struct file in the place of the device's own in the
 * vm_area_struct, as dma_buf_mmap() does: the file of an area. It holds the device's file and the
 * memory, and goes when the last of the areas that came from this mmap (by fork, split, mremap)
 * is gone; the kernel counts that. Its f_mapping is the address space of the memory. Why not the
 * device's own file:
 *
 *  - One open of a device may map several memories, and one memory may be mapped through many
 *    files, in /dev, in /proc, and through the control; unmapping must find all of that and
 *    nothing else. One address space a memory does.
 *  - For a memfd it is the address space of the memfd. A page of shmem that is mapped into an
 *    area which its own address space does not know of cannot be unmapped by a hole being
 *    punched, by reclaim, by migration: the kernel then reports a bad page. Inserting bare frame
 *    numbers instead would avoid that, but get_user_pages would fail, and somebody would have to
 *    pin the pages. This way the areas are mappings of the memfd like any other: pages are
 *    returned locked and with a reference, dirt is tracked, huge pages are mapped huge,
 *    MAP_PRIVATE copies, swapping works.
 *
 * A page fault that needs the author lets go of mmap_lock while it waits, if the kernel allows it
 * (the first attempt of a fault that is made for a program), and then has to return
 * VM_FAULT_RETRY whatever the answer was. So the outcome is kept in a small ring of the memory
 * (mapdev_outcome), and the fault finds it when it comes again. If 64 others come in between the
 * author is asked once more, which is harmless. No operation with faults that ask has map_pages,
 * which is the kernel's condition for calling it with nothing but the lock of the area held.
 *
 * VM_FAULT is asked for by the same way, before the page is looked up. That it was allowed is used
 * up under the page's lock, so that what is taken away meanwhile is told again.
 *
 * PAGE_MKWRITE is asked for so, too, in the fault of a store. The kernel's page_mkwrite() cannot
 * let go of mmap_lock: when a page that is mapped read-only is stored into it unmaps the page, so
 * that the store becomes a fault.
 */
#include <linux/file.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/pseudo_fs.h>
#include <linux/slab.h>

#include "mapdev.h"

#define MAPDEV_AROUND	16	/* pages mapped by one fault, as fault_around_bytes has it */
#define MAPDEV_UNTOLD	1UL	/* in vm_private_data: the author was not told of it */

struct mapdev_area {
	struct mapdev_mem *memory;
	struct mapdev_file *file;	/* NULL: the author's own, through the control */
	struct file *device_file;	/* keeps `file` */
	spinlock_t lock;
	struct list_head closes;	/* VM_CLOSE, for each that the author was told of */
};

/* -- files of areas -------------------------------------------------------------------------- */

static struct vfsmount *mapdev_mount;
static int mapdev_mounted;

/* What /proc/PID/maps shows: the name of the device, as for its own file. */
static char *mapdev_dname(struct dentry *dentry, char *buffer, int len)
{
	int n = dentry->d_name.len + 1;

	if (n > len)
		return ERR_PTR(-ENAMETOOLONG);
	return memcpy(buffer + len - n, dentry->d_name.name, n);
}

static const struct dentry_operations mapdev_dentry_operations = {
	.d_dname = mapdev_dname,
};

static int mapdev_init_fs_context(struct fs_context *fc)
{
	struct pseudo_fs_context *ctx = init_pseudo(fc, 0x6d617064);

	if (!ctx)
		return -ENOMEM;
	ctx->dops = &mapdev_dentry_operations;
	fc->s_iflags |= SB_I_NOEXEC | SB_I_NODEV;
	return 0;
}

/*
 * Mounted while there is an inode. The super block holds the module until it is gone, which no
 * file operation can.
 */
static struct file_system_type mapdev_fs = {
	.owner = THIS_MODULE,
	.name = "mapdev",
	.init_fs_context = mapdev_init_fs_context,
	.kill_sb = kill_anon_super,
};

/* An inode that has nothing but an address space. */
struct inode *mapdev_area_inode(void)
{
	struct inode *inode;
	int error = simple_pin_fs(&mapdev_fs, &mapdev_mount, &mapdev_mounted);

	if (error)
		return ERR_PTR(error);
	inode = alloc_anon_inode(mapdev_mount->mnt_sb);
	if (IS_ERR(inode))
		simple_release_fs(&mapdev_mount, &mapdev_mounted);
	else
		inode->i_flags |= S_NOATIME | S_NOCMTIME;
	return inode;
}

void mapdev_area_inode_put(struct inode *inode)
{
	iput(inode);
	simple_release_fs(&mapdev_mount, &mapdev_mounted);
}

static int mapdev_area_release(struct inode *inode, struct file *file)
{
	struct mapdev_area *area = file->private_data;
	struct mapdev_message *notice;

	while ((notice = list_first_entry_or_null(&area->closes, struct mapdev_message, link))) {
		list_del(&notice->link);
		kfree(notice);
	}
	mapdev_memory_put(area->memory);
	if (area->device_file)
		fput(area->device_file);
	kfree(area);
	return 0;
}

/* msync(2) */
static int mapdev_area_fsync(struct file *file, loff_t start, loff_t end, int datasync)
{
	struct mapdev_area *area = file->private_data;

	return area->file ? mapdev_file_fsync(area->device_file, start, end, datasync) : 0;
}

static const struct file_operations mapdev_area_fops = {
	.owner = THIS_MODULE,
	.release = mapdev_area_release,
	.fsync = mapdev_area_fsync,
};

static struct file *mapdev_area_new(struct mapdev_mem *memory, struct mapdev_file *file,
				    unsigned int flags)
{
	char name[MAPDEV_NAME_MAX + 1 + sizeof("/proc/")];
	struct mapdev_area *area = kzalloc(sizeof(*area), GFP_KERNEL_ACCOUNT);
	struct file *filp;

	if (!area)
		return ERR_PTR(-ENOMEM);
	snprintf(name, sizeof(name), "/%s/%s",
		 file && file->device->flags & MAPDEV_PROC ? "proc" : "dev",
		 file ? file->device->name : "mapdev");
	spin_lock_init(&area->lock);
	INIT_LIST_HEAD(&area->closes);

	__module_get(THIS_MODULE);	/* the kernel puts mapdev_area_fops.owner */
	ihold(memory->inode);
	filp = alloc_file_pseudo(memory->inode, mapdev_mount, name, flags, &mapdev_area_fops);
	if (IS_ERR(filp)) {
		iput(memory->inode);
		module_put(THIS_MODULE);
		kfree(area);
		return filp;
	}
	area->memory = mapdev_memory_get(memory);
	if (file) {
		area->file = file;
		area->device_file = get_file(file->file);
	}
	filp->f_mapping = memory->mapping;
	filp->private_data = area;
	return filp;
}

static struct mapdev_area *mapdev_area_of(struct vm_area_struct *vma)
{
	return (void *)((unsigned long)vma->vm_private_data & ~MAPDEV_UNTOLD);
}

static bool mapdev_area_gone(struct mapdev_area *area)
{
	return area->file && mapdev_gone(area->file);
}

/* Whether the author hears of a fault on a page that is there already. */
static bool mapdev_tells_faults(struct mapdev_area *area)
{
	return area->file && area->memory->kind != MAPDEV_MEM_FAULT &&
	       mapdev_asks(area->file, MAPDEV_VM_FAULT);
}

/* -- notices --------------------------------------------------------------------------------- */

static void mapdev_describe(struct mapdev_vma_in *in, struct vm_area_struct *vma, u64 memory)
{
	in->memory = memory;
	in->start = vma->vm_start;
	in->length = vma->vm_end - vma->vm_start;
	in->pgoff = vma->vm_pgoff;
	in->flags = (vma->vm_flags & VM_READ ? MAPDEV_VMA_READ : 0) |
		    (vma->vm_flags & VM_WRITE ? MAPDEV_VMA_WRITE : 0) |
		    (vma->vm_flags & VM_EXEC ? MAPDEV_VMA_EXEC : 0) |
		    (vma->vm_flags & VM_SHARED ? MAPDEV_VMA_SHARED : 0);
}

static void mapdev_owe_close(struct mapdev_area *area, struct mapdev_message *notice)
{
	spin_lock(&area->lock);
	list_add(&notice->link, &area->closes);
	spin_unlock(&area->lock);
}

/*
 * An area was duplicated. The notice cannot fail and cannot wait, so an author that does not read
 * must not be able to fill the kernel: above max_notices nothing is said of new areas, and then
 * neither of their end.
 */
static void mapdev_vm_open(struct vm_area_struct *vma)
{
	struct mapdev_area *area = mapdev_area_of(vma);
	struct mapdev_message *notice;
	struct mapdev_file *file = area->file;

	vma->vm_private_data = area;
	if (!file || !(mapdev_asks(file, MAPDEV_VM_OPEN) || mapdev_asks(file, MAPDEV_VM_CLOSE)))
		return;
	if (mapdev_gone(file) || mapdev_notices_full(file)) {
		vma->vm_private_data = (void *)((unsigned long)area | MAPDEV_UNTOLD);
		return;
	}
	if (mapdev_asks(file, MAPDEV_VM_CLOSE))
		mapdev_owe_close(area, mapdev_notice_new(GFP_KERNEL_ACCOUNT | __GFP_NOFAIL));
	if (mapdev_asks(file, MAPDEV_VM_OPEN)) {
		notice = mapdev_notice_new(GFP_KERNEL_ACCOUNT | __GFP_NOFAIL);
		mapdev_describe(&notice->body.vma, vma, area->memory->id);
		mapdev_notice_send(file, notice, MAPDEV_VM_OPEN, sizeof(notice->body.vma));
	}
}

static void mapdev_vm_close(struct vm_area_struct *vma)
{
	struct mapdev_area *area = mapdev_area_of(vma);
	struct mapdev_message *notice;

	if ((unsigned long)vma->vm_private_data & MAPDEV_UNTOLD)
		return;
	spin_lock(&area->lock);
	notice = list_first_entry_or_null(&area->closes, struct mapdev_message, link);
	if (notice)
		list_del_init(&notice->link);
	spin_unlock(&area->lock);
	if (notice) {
		mapdev_describe(&notice->body.vma, vma, area->memory->id);
		mapdev_notice_send(area->file, notice, MAPDEV_VM_CLOSE, sizeof(notice->body.vma));
	}
}

/* -- page faults ----------------------------------------------------------------------------- */

static void mapdev_outcome_keep(struct mapdev_mem *memory, pgoff_t pgoff, u32 opcode, int error)
{
	struct mapdev_outcome *outcome;

	spin_lock(&memory->lock);
	outcome = &memory->outcomes[memory->next_outcome++ % MAPDEV_OUTCOMES];
	outcome->task = current;
	outcome->pgoff = pgoff;
	outcome->opcode = opcode;
	outcome->error = error;
	spin_unlock(&memory->lock);
}

/* How the fault of this task went that it comes again for: 0 or an errno; 1: nothing is known. */
static int mapdev_outcome_find(struct mapdev_mem *memory, pgoff_t pgoff, u32 opcode, bool take)
{
	struct mapdev_outcome *outcome;
	int error = 1;

	spin_lock(&memory->lock);
	for (outcome = memory->outcomes; outcome < memory->outcomes + MAPDEV_OUTCOMES; outcome++)
		if (outcome->task == current && outcome->pgoff == pgoff &&
		    outcome->opcode == opcode) {
			error = outcome->error;
			if (take || error)
				outcome->task = NULL;
			break;
		}
	spin_unlock(&memory->lock);
	return error;
}

/*
 * Ask the author about the page of a fault. 0: go on. VM_FAULT_RETRY: mmap_lock is not held any
 * more, the fault will come again. Else an error for the program.
 */
static vm_fault_t mapdev_fault_ask(struct vm_fault *vmf, u32 opcode)
{
	struct vm_area_struct *vma = vmf->vma;
	struct mapdev_area *area = mapdev_area_of(vma);
	struct mapdev_mem *memory = area->memory;
	struct mapdev_fault_in in = {
		.memory = memory->id,
		.pgoff = vmf->pgoff,
		.address = vmf->address & PAGE_MASK,
		.flags = vmf->flags & FAULT_FLAG_WRITE ? MAPDEV_FAULT_WRITE : 0,
	};
	bool unlock = fault_flag_allow_retry_first(vmf->flags);
	struct file *file;
	int error;

	error = mapdev_outcome_find(memory, in.pgoff, opcode, false);
	if (!error)
		return 0;	/* taken when the page is mapped */
	if (error < 0 && vmf->flags & FAULT_FLAG_TRIED)
		return VM_FAULT_SIGBUS;

	/* nothing can kill it any more: it must not wait (userfaultfd does the same) */
	if (current->flags & PF_EXITING)
		return VM_FAULT_SIGBUS;
	if (unlock && vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
		return VM_FAULT_RETRY;
	if (!unlock) {
		error = mapdev_call_page(area->file, memory, opcode, &in);
		if (error)
			return VM_FAULT_SIGBUS;
		if (opcode != MAPDEV_FAULT)
			mapdev_outcome_keep(memory, in.pgoff, opcode, 0);
		return 0;
	}

	file = get_file(vma->vm_file);	/* keeps the area; vma may be gone once the lock is */
	mmap_read_unlock(vma->vm_mm);
	error = mapdev_call_page(area->file, memory, opcode, &in);
	if (error || opcode != MAPDEV_FAULT)
		mapdev_outcome_keep(memory, in.pgoff, opcode, error);
	fput(file);
	return VM_FAULT_RETRY;
}

/*
 * Map some pages that are there behind the one of a fault. What does not work is left for its own
 * fault.
 */
static void mapdev_fault_around(struct vm_fault *vmf, struct mapdev_mem *memory)
{
	unsigned long room = (vmf->vma->vm_end - (vmf->address & PAGE_MASK)) >> PAGE_SHIFT;
	pgoff_t most = min_t(pgoff_t, min_t(pgoff_t, room, memory->npages - vmf->pgoff),
			     MAPDEV_AROUND);
	struct page *pages[MAPDEV_AROUND];
	unsigned long n, i, left;

	for (n = 1; n < most; n++) {
		pages[n - 1] = mapdev_memory_present(memory, vmf->pgoff + n);
		if (!pages[n - 1])
			break;
	}
	n--;
	left = n;
	if (n)
		vm_insert_pages(vmf->vma, (vmf->address & PAGE_MASK) + PAGE_SIZE, pages, &left);
	for (i = 0; i < n; i++)
		put_page(pages[i]);
}

static vm_fault_t mapdev_vm_fault(struct vm_fault *vmf)
{
	struct mapdev_area *area = mapdev_area_of(vmf->vma);
	struct mapdev_mem *memory = area->memory;
	bool told = mapdev_tells_faults(area);
	struct page *page;
	vm_fault_t ret;

	if (mapdev_area_gone(area) || vmf->pgoff >= memory->npages)
		return VM_FAULT_SIGBUS;
	if (told) {
		ret = mapdev_fault_ask(vmf, MAPDEV_VM_FAULT);
		if (ret)
			return ret;
	}
	if (memory->kind == MAPDEV_MEM_DMA) {
		if (told && mapdev_outcome_find(memory, vmf->pgoff, MAPDEV_VM_FAULT, true))
			return VM_FAULT_NOPAGE;
		return mapdev_insert_pfn(vmf->vma, vmf->address & PAGE_MASK,
					 page_to_pfn(virt_to_page(memory->vaddr)) + vmf->pgoff);
	}

	page = mapdev_memory_page(memory, vmf->pgoff);
	if (!page && area->file && mapdev_asks(area->file, MAPDEV_FAULT)) {
		ret = mapdev_fault_ask(vmf, MAPDEV_FAULT);
		if (ret)
			return ret;
		page = mapdev_memory_page(memory, vmf->pgoff);
		if (!page)
			return VM_FAULT_NOPAGE;	/* revoked already: the access faults again */
	}
	if (IS_ERR_OR_NULL(page))
		return VM_FAULT_SIGBUS;

	if (area->file && mapdev_asks(area->file, MAPDEV_PAGE_MKWRITE) &&
	    vmf->flags & FAULT_FLAG_WRITE && vmf->vma->vm_flags & VM_SHARED) {
		ret = mapdev_fault_ask(vmf, MAPDEV_PAGE_MKWRITE);
		if (ret) {
			put_page(page);
			return ret;
		}
	} else if (vmf->vma->vm_flags & VM_MIXEDMAP && !told) {
		mapdev_fault_around(vmf, memory);
	}

	lock_page(page);
	if (!mapdev_memory_holds(memory, vmf->pgoff, page) ||
	    (told && mapdev_outcome_find(memory, vmf->pgoff, MAPDEV_VM_FAULT, true))) {
		unlock_page(page);
		put_page(page);
		return VM_FAULT_NOPAGE;
	}
	vmf->page = page;
	return VM_FAULT_LOCKED;
}

/* A store into a page that is mapped read-only, or the end of a fault that was a store. */
static vm_fault_t mapdev_vm_page_mkwrite(struct vm_fault *vmf)
{
	struct mapdev_area *area = mapdev_area_of(vmf->vma);
	struct mapdev_mem *memory = area->memory;

	if (mapdev_area_gone(area))
		return VM_FAULT_SIGBUS;
	/* under the page's lock: see mapdev_memory_unmap() */
	lock_page(vmf->page);
	if (mapdev_memory_holds(memory, vmf->pgoff, vmf->page) &&
	    !mapdev_outcome_find(memory, vmf->pgoff, MAPDEV_PAGE_MKWRITE, true))
		return VM_FAULT_LOCKED;
	unlock_page(vmf->page);
	if (mapdev_tells_faults(area))	/* not again, because of what we do here */
		mapdev_outcome_keep(memory, vmf->pgoff, MAPDEV_VM_FAULT, 0);
	unmap_mapping_range(memory->mapping, (loff_t)vmf->pgoff << PAGE_SHIFT, PAGE_SIZE, 0);
	return VM_FAULT_NOPAGE;
}

/*
 * The same for frame numbers (DMA). Unlike page_mkwrite() it knows whether it may let go of
 * mmap_lock.
 */
static vm_fault_t mapdev_vm_pfn_mkwrite(struct vm_fault *vmf)
{
	struct mapdev_area *area = mapdev_area_of(vmf->vma);
	vm_fault_t ret;

	if (mapdev_area_gone(area))
		return VM_FAULT_SIGBUS;
	ret = mapdev_fault_ask(vmf, MAPDEV_PAGE_MKWRITE);
	if (ret)
		return ret | (ret & VM_FAULT_RETRY ? VM_FAULT_NOPAGE : 0);
	if (mapdev_outcome_find(area->memory, vmf->pgoff, MAPDEV_PAGE_MKWRITE, true))
		return VM_FAULT_NOPAGE;	/* write-protected meanwhile */
	return 0;
}

/* Map what is resident of a memfd around a fault: its pages, huge ones as huge. */
static mapdev_map_pages_t mapdev_vm_map_pages(struct vm_fault *vmf, pgoff_t start, pgoff_t end)
{
	/* an empty range: nothing is mapped, and the fault comes to ->fault */
	if (mapdev_area_gone(mapdev_area_of(vmf->vma)))
		end = start - 1;
	mapdev_map_pages_return(filemap_map_pages(vmf, start, end));
}

static const struct vm_operations_struct mapdev_vm_ops = {
	.open = mapdev_vm_open,
	.close = mapdev_vm_close,
	.fault = mapdev_vm_fault,
};

static const struct vm_operations_struct mapdev_vm_memfd_ops = {
	.open = mapdev_vm_open,
	.close = mapdev_vm_close,
	.fault = mapdev_vm_fault,
	.map_pages = mapdev_vm_map_pages,
};

static const struct vm_operations_struct mapdev_vm_mkwrite_ops = {
	.open = mapdev_vm_open,
	.close = mapdev_vm_close,
	.fault = mapdev_vm_fault,
	.page_mkwrite = mapdev_vm_page_mkwrite,
	.pfn_mkwrite = mapdev_vm_pfn_mkwrite,
};

/* -- mmap(2) --------------------------------------------------------------------------------- */

static int mapdev_check_area(struct vm_area_struct *vma, struct mapdev_mem *memory, pgoff_t pgoff)
{
	if (vma_pages(vma) > memory->npages || pgoff > memory->npages - vma_pages(vma))
		return -EINVAL;
	if (!mapdev_memory_writable(memory) && vma->vm_flags & VM_SHARED &&
	    vma->vm_flags & VM_WRITE)
		return -EPERM;
	return 0;
}

/*
 * Map a memory, from page pgoff of it on. `file` is NULL for the author's own mapping through the
 * control. Every failure leaves vma as it was, and sends VM_CLOSE to an author that has been
 * asked.
 */
int mapdev_area_map(struct vm_area_struct *vma, struct mapdev_mem *memory, struct mapdev_file *file,
		    pgoff_t pgoff)
{
	struct mapdev_message *notice = NULL;
	struct mapdev_area *area;
	struct file *filp;
	int error;

	if (file && mapdev_asks(file, MAPDEV_VM_CLOSE))
		notice = mapdev_notice_new(GFP_KERNEL_ACCOUNT | __GFP_NOFAIL);
	error = mapdev_check_area(vma, memory, pgoff);
	if (error)
		goto failed;
	filp = mapdev_area_new(memory, file, vma->vm_file->f_flags & O_ACCMODE);
	error = PTR_ERR_OR_ZERO(filp);
	if (error)
		goto failed;
	area = filp->private_data;
	if (notice)
		mapdev_owe_close(area, notice);

	vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP);
	if (!memory->memfd)
		vm_flags_set(vma, VM_MIXEDMAP);
	/*
	 * pin_user_pages() of 5.10 takes an entry without a page for a page, but not in such an
	 * area
	 */
	if (memory->kind == MAPDEV_MEM_DMA)
		vm_flags_set(vma, VM_IO);
	if (!file)
		vm_flags_set(vma, VM_DONTCOPY);
	if (!mapdev_memory_writable(memory) && vma->vm_flags & VM_SHARED)
		vm_flags_clear(vma, VM_MAYWRITE);
	if (file && mapdev_asks(file, MAPDEV_PAGE_MKWRITE))
		vma->vm_ops = &mapdev_vm_mkwrite_ops;
	else
		vma->vm_ops = memory->memfd && !mapdev_tells_faults(area) ?
			      &mapdev_vm_memfd_ops : &mapdev_vm_ops;
	vma->vm_private_data = area;
	vma->vm_pgoff = pgoff;
	vma_set_file(vma, filp);
	fput(filp);
	return 0;

failed:
	if (notice && mapdev_asks(file, MAPDEV_MMAP)) {
		mapdev_describe(&notice->body.vma, vma, memory->id);
		mapdev_notice_send(file, notice, MAPDEV_VM_CLOSE, sizeof(notice->body.vma));
	} else {
		kfree(notice);
	}
	return error;
}

/* Ask the author what to map, with mmap_lock held. The memory has a reference. */
int mapdev_area_ask(struct mapdev_file *file, struct vm_area_struct *vma,
		    struct mapdev_mem **memory)
{
	struct mapdev_control *control = file->device->control;
	struct mapdev_call *call;
	bool own;
	int error;

	/* who reads the requests cannot answer while it waits for its own mmap_lock */
	spin_lock(&control->queue.lock);
	own = control->mm == current->mm;
	spin_unlock(&control->queue.lock);
	if (own)
		return -EDEADLK;

	call = mapdev_call_new(file, MAPDEV_MMAP, sizeof(struct mapdev_vma_in), 0);
	if (IS_ERR(call))
		return PTR_ERR(call);
	mapdev_describe(&call->message.body.vma, vma, 0);
	error = mapdev_call_ask(file, call);
	if (!error)
		*memory = mapdev_memory_get(call->memory);
	mapdev_call_put(call);
	return error;
}
