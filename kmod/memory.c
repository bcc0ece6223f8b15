// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory: a run of pages that files map, counted by references.
 *
 *	MEMFD		pages of the author's memfd, looked up when they are touched
 *	ARRAY, FAULT	an xarray of pages
 *	VMALLOC		vmalloc_user
 *	CONTIGUOUS	alloc_pages_exact: one block, split, so that every page has a count
 *	DMA		dma_alloc_coherent: no counts, so only ever mapped by frame number
 *
 * Whatever the kernel gives is charged against max_bytes before it is allocated, and is zero, or
 * is filled wholly, before anybody sees it.
 *
 * A page that is being put into a page table is locked from the moment it was found to belong to
 * the memory until it is mapped. Who takes pages away, or their being writable, locks each page
 * once before it unmaps them: after that no fault that began before can map one any more.
 *
 * A memfd must be sealed against shrinking, so that a page below its length is always to be had.
 * Being writable is kept from being sealed (mapping_map_writable) as long as the memory lives, as
 * for any shared mapping.
 */
#include <linux/dma-mapping.h>
#include <linux/fcntl.h>
#include <linux/pagemap.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "mapdev.h"

static atomic64_t mapdev_used = ATOMIC64_INIT(0);

int mapdev_memory_charge(u64 bytes)
{
	if (bytes > mapdev_max_bytes)
		return -ENOMEM;
	if (atomic64_add_return(bytes, &mapdev_used) > mapdev_max_bytes) {
		atomic64_sub(bytes, &mapdev_used);
		return -ENOMEM;
	}
	return 0;
}

void mapdev_memory_uncharge(u64 bytes)
{
	atomic64_sub(bytes, &mapdev_used);
}

u64 mapdev_memory_used(void)
{
	return atomic64_read(&mapdev_used);
}

/* -- making and freeing ---------------------------------------------------------------------- */

/* Copy what is asked for from the author, and check it. To be undone by mapdev_memory_unplan. */
int mapdev_memory_plan(struct mapdev_memory_plan *plan, const struct mapdev_memory *asked)
{
	bool with_init = asked->kind != MAPDEV_MEM_MEMFD && asked->kind != MAPDEV_MEM_FAULT;

	if (asked->kind < MAPDEV_MEM_MEMFD || asked->kind > MAPDEV_MEM_FAULT)
		return -EINVAL;
	if (asked->kind != MAPDEV_MEM_MEMFD && asked->memfd != -1)
		return -EINVAL;
	if (!asked->length || !PAGE_ALIGNED(asked->length) || asked->length > MAPDEV_MAX_LENGTH)
		return -EINVAL;
	if (asked->init_len && !with_init)
		return -EINVAL;
	if (asked->init_len > asked->length || asked->init_len > MAPDEV_MAX_TRANSFER)
		return -EINVAL;

	memset(plan, 0, sizeof(*plan));
	plan->kind = asked->kind;
	plan->memfd = asked->memfd;
	plan->length = asked->length;
	if (asked->init_len) {
		plan->init = kvmalloc(asked->init_len, GFP_KERNEL_ACCOUNT);
		if (!plan->init)
			return -ENOMEM;
		plan->init_len = asked->init_len;
		if (copy_from_user(plan->init, u64_to_user_ptr(asked->init), plan->init_len)) {
			mapdev_memory_unplan(plan);
			return -EFAULT;
		}
	}
	return 0;
}

void mapdev_memory_unplan(struct mapdev_memory_plan *plan)
{
	kvfree(plan->init);
	plan->init = NULL;
}

/* memfd_fcntl() is not exported. Only files of shmem have these. */
static unsigned int mapdev_seals(struct file *memfd)
{
	return READ_ONCE(SHMEM_I(file_inode(memfd))->seals);
}

static int mapdev_take_memfd(struct mapdev_mem *memory, int fd, u64 length)
{
	struct file *memfd = fget(fd);
	int error = -EBADF;
	bool is_shmem;

	if (!memfd)
		return error;
	error = S_ISREG(file_inode(memfd)->i_mode) ? mapdev_is_shmem(memfd) : 0;
	if (error < 0)
		goto put;
	is_shmem = error;
	error = -EINVAL;
	if (!is_shmem || !(mapdev_seals(memfd) & F_SEAL_SHRINK))
		goto put;
	if (i_size_read(file_inode(memfd)) < length)
		goto put;
	error = -EACCES;
	if (!(memfd->f_mode & FMODE_READ))
		goto put;
	error = mapping_map_writable(memfd->f_mapping);
	if (error)
		goto put;
	memory->memfd = memfd;
	memory->mapping = memfd->f_mapping;
	return 0;

put:
	fput(memfd);
	return error;
}

/* Pages that are all there, on kernels where they have to know whose they are. */
static void mapdev_own_all(struct mapdev_mem *memory, struct address_space *mapping)
{
	struct page *page;
	pgoff_t pgoff;

	if (!MAPDEV_OWNED_PAGES || memory->kind == MAPDEV_MEM_DMA)
		return;
	for (pgoff = 0; pgoff < memory->npages; pgoff++) {
		page = mapdev_memory_present(memory, pgoff);
		mapdev_page_own(page, mapping, pgoff);
		put_page(page);
	}
}

/* Memory that is all there from the start. */
static int mapdev_allocate(struct mapdev_mem *memory, u64 length)
{
	const gfp_t gfp = GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN;
	int error;

	if (memory->kind == MAPDEV_MEM_DMA && !mapdev_dma_device())
		return -ENODEV;
	error = mapdev_memory_charge(length);
	if (error)
		return error;
	switch (memory->kind) {
	case MAPDEV_MEM_VMALLOC:
		memory->vaddr = vmalloc_user(length);
		break;
	case MAPDEV_MEM_CONTIGUOUS:
		memory->vaddr = alloc_pages_exact(length, gfp | __GFP_ACCOUNT);
		break;
	case MAPDEV_MEM_DMA:
		memory->vaddr = dma_alloc_coherent(mapdev_dma_device(), length, &memory->dma, gfp);
		if (memory->vaddr && is_vmalloc_addr(memory->vaddr)) {
			/* remapped with other attributes than a plain mapping would have */
			dma_free_coherent(mapdev_dma_device(), length, memory->vaddr, memory->dma);
			memory->vaddr = NULL;
		}
		break;
	}
	if (!memory->vaddr) {
		mapdev_memory_uncharge(length);
		return -ENOMEM;
	}
	mapdev_own_all(memory, memory->mapping);
	return 0;
}

static int mapdev_initialise(struct mapdev_mem *memory, const struct mapdev_memory_plan *plan)
{
	struct page *page;
	u32 done, part;

	if (memory->vaddr) {
		memcpy(memory->vaddr, plan->init, plan->init_len);
		return 0;
	}
	for (done = 0; done < plan->init_len; done += part) {
		part = min_t(u32, plan->init_len - done, PAGE_SIZE);
		page = mapdev_memory_page(memory, done >> PAGE_SHIFT);
		if (IS_ERR(page))
			return PTR_ERR(page);
		memcpy(page_address(page), plan->init + done, part);
		put_page(page);
	}
	return 0;
}

/*
 * Memory as planned. ERR_PTR: ENOMEM, EINVAL (no sealed memfd, or too short), EBADF, EACCES,
 * EPERM (sealed: no writing).
 */
struct mapdev_mem *mapdev_memory_new(const struct mapdev_memory_plan *plan)
{
	struct mapdev_mem *memory = kzalloc(sizeof(*memory), GFP_KERNEL_ACCOUNT);
	int error;

	if (!memory)
		return ERR_PTR(-ENOMEM);
	kref_init(&memory->ref);
	memory->kind = plan->kind;
	memory->npages = plan->length >> PAGE_SHIFT;
	xa_init_flags(&memory->pages, XA_FLAGS_ACCOUNT);
	spin_lock_init(&memory->lock);
	memory->inode = mapdev_area_inode();
	if (IS_ERR(memory->inode)) {
		error = PTR_ERR(memory->inode);
		kfree(memory);
		return ERR_PTR(error);
	}
	memory->mapping = memory->inode->i_mapping;

	error = 0;
	if (plan->kind == MAPDEV_MEM_MEMFD)
		error = mapdev_take_memfd(memory, plan->memfd, plan->length);
	else if (plan->kind != MAPDEV_MEM_ARRAY && plan->kind != MAPDEV_MEM_FAULT)
		error = mapdev_allocate(memory, plan->length);
	if (!error && plan->init_len)
		error = mapdev_initialise(memory, plan);
	if (error) {
		mapdev_memory_put(memory);
		return ERR_PTR(error);
	}
	return memory;
}

struct mapdev_mem *mapdev_memory_get(struct mapdev_mem *memory)
{
	if (memory)
		kref_get(&memory->ref);
	return memory;
}

static void mapdev_memory_free(struct kref *ref)
{
	struct mapdev_mem *memory = container_of(ref, struct mapdev_mem, ref);
	u64 length = (u64)memory->npages << PAGE_SHIFT;
	unsigned long index;
	struct page *page;

	xa_for_each(&memory->pages, index, page) {
		mapdev_page_own(page, NULL, 0);
		put_page(page);
		mapdev_memory_uncharge(PAGE_SIZE);
	}
	xa_destroy(&memory->pages);
	if (memory->vaddr) {
		mapdev_own_all(memory, NULL);
		switch (memory->kind) {
		case MAPDEV_MEM_VMALLOC:
			vfree(memory->vaddr);
			break;
		case MAPDEV_MEM_CONTIGUOUS:
			free_pages_exact(memory->vaddr, length);
			break;
		case MAPDEV_MEM_DMA:
			dma_free_coherent(mapdev_dma_device(), length, memory->vaddr, memory->dma);
			break;
		}
		mapdev_memory_uncharge(length);
	}
	if (memory->memfd) {
		mapping_unmap_writable(memory->mapping);
		fput(memory->memfd);
	}
	mapdev_area_inode_put(memory->inode);
	kfree(memory);
}

void mapdev_memory_put(struct mapdev_mem *memory)
{
	if (memory)
		kref_put(&memory->ref, mapdev_memory_free);
}

/* -- pages ----------------------------------------------------------------------------------- */

/*
 * Whether programs may store into it: not if the author may not, and it is not the author's to
 * give.
 */
bool mapdev_memory_writable(struct mapdev_mem *memory)
{
	return !memory->memfd || (memory->memfd->f_mode & FMODE_WRITE &&
				  !(mapdev_seals(memory->memfd) & F_SEAL_FUTURE_WRITE));
}

/* The page if it is there, with a reference; or NULL. For all kinds but MEMFD and DMA. */
struct page *mapdev_memory_present(struct mapdev_mem *memory, pgoff_t pgoff)
{
	struct page *page = NULL;

	switch (memory->kind) {
	case MAPDEV_MEM_VMALLOC:
		page = vmalloc_to_page(memory->vaddr + ((size_t)pgoff << PAGE_SHIFT));
		get_page(page);
		break;
	case MAPDEV_MEM_CONTIGUOUS:
		page = virt_to_page(memory->vaddr + ((size_t)pgoff << PAGE_SHIFT));
		get_page(page);
		break;
	case MAPDEV_MEM_ARRAY:
	case MAPDEV_MEM_FAULT:
		xa_lock(&memory->pages);	/* against being dropped */
		page = xa_load(&memory->pages, pgoff);
		if (page)
			get_page(page);
		xa_unlock(&memory->pages);
		break;
	}
	return page;
}

/*
 * Put a page into the array unless there is one. 1: it was put there, with its charge and
 * reference.
 */
static int mapdev_store(struct mapdev_mem *memory, pgoff_t pgoff, struct page *page)
{
	void *old;

	mapdev_page_own(page, memory->mapping, pgoff);
	old = xa_cmpxchg(&memory->pages, pgoff, NULL, page, GFP_KERNEL);
	if (!old)
		return 1;
	mapdev_page_own(page, NULL, 0);
	return xa_err(old);
}

static int mapdev_add_page(struct mapdev_mem *memory, pgoff_t pgoff)
{
	int error = mapdev_memory_charge(PAGE_SIZE);
	struct page *page;

	if (error)
		return error;
	error = -ENOMEM;
	page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!page)
		goto uncharge;
	error = mapdev_store(memory, pgoff, page);
	if (error > 0)
		return 0;
	put_page(page);	/* another one was there first, or no memory */
uncharge:
	mapdev_memory_uncharge(PAGE_SIZE);
	return error;
}

/*
 * The page, with a reference, made if it is of a kind that makes them. NULL: FAULT, and it is not
 * there. ERR_PTR: ENOMEM or what shmem says. Not for DMA. May sleep.
 */
struct page *mapdev_memory_page(struct mapdev_mem *memory, pgoff_t pgoff)
{
	struct page *page;
	int error;

	if (memory->kind == MAPDEV_MEM_MEMFD)
		return shmem_read_mapping_page(memory->mapping, pgoff);

	page = mapdev_memory_present(memory, pgoff);
	while (!page && memory->kind == MAPDEV_MEM_ARRAY) {
		error = mapdev_add_page(memory, pgoff);
		if (error)
			return ERR_PTR(error);
		page = mapdev_memory_present(memory, pgoff);
	}
	return page;
}

/*
 * Whether a page that was found at pgoff still is what is there. With the page locked; holds
 * until it is unlocked.
 */
bool mapdev_memory_holds(struct mapdev_mem *memory, pgoff_t pgoff, struct page *page)
{
	if (memory->kind == MAPDEV_MEM_MEMFD)
		return mapdev_page_mapping(page) == memory->mapping;
	if (memory->kind == MAPDEV_MEM_FAULT)
		return xa_load(&memory->pages, pgoff) == page;
	return true;
}

/*
 * Put pages of an answer where none are. Each that is taken, with its charge and reference,
 * becomes NULL in `pages`. Those that are there already stay. -ENOMEM: not all of them were
 * looked at.
 */
int mapdev_memory_fill(struct mapdev_mem *memory, pgoff_t pgoff, struct page **pages,
		       unsigned int npages)
{
	unsigned int i;
	int stored;

	for (i = 0; i < npages && pgoff + i < memory->npages; i++) {
		stored = mapdev_store(memory, pgoff + i, pages[i]);
		if (stored < 0)
			return stored;
		if (stored)
			pages[i] = NULL;
	}
	return 0;
}

int mapdev_memory_physical(struct mapdev_mem *memory, pgoff_t pgoff, u64 *physical)
{
	struct page *page;

	if (pgoff >= memory->npages)
		return -EINVAL;
	if (memory->kind == MAPDEV_MEM_DMA) {
		*physical = virt_to_phys(memory->vaddr + ((size_t)pgoff << PAGE_SHIFT));
		return 0;
	}
	if (memory->kind == MAPDEV_MEM_MEMFD) {
		page = find_get_page(memory->mapping, pgoff);	/* not if it is swapped out */
	} else {
		page = mapdev_memory_present(memory, pgoff);
	}
	if (!page)
		return -ENODATA;
	*physical = (u64)page_to_pfn(page) << PAGE_SHIFT;
	put_page(page);
	return 0;
}

/* -- taking away ----------------------------------------------------------------------------- */

/* The next page at or behind *pgoff, up to last, with a reference; or NULL. */
static struct page *mapdev_next_page(struct mapdev_mem *memory, unsigned long *pgoff,
				     unsigned long last)
{
	struct xarray *pages = memory->memfd ? &memory->mapping->i_pages : &memory->pages;
	struct page *page;
	void *entry;

	if (memory->vaddr) {
		if (*pgoff > last || memory->kind == MAPDEV_MEM_DMA)
			return NULL;
		return mapdev_memory_present(memory, *pgoff);
	}
	while (*pgoff <= last) {
		entry = xa_find(pages, pgoff, last, XA_PRESENT);
		if (!entry)
			return NULL;
		page = NULL;
		if (!memory->memfd)
			page = mapdev_memory_present(memory, *pgoff);
		else if (!xa_is_value(entry))
			page = find_get_page(memory->mapping, *pgoff);
		if (page)
			return page;
		++*pgoff;
	}
	return NULL;
}

/*
 * Unmap pages from every program, private copies excepted: the next access faults and is VM_FAULT,
 * and the next store is PAGE_MKWRITE. `drop`: FAULT memory forgets them.
 */
void mapdev_memory_unmap(struct mapdev_mem *memory, pgoff_t first, pgoff_t npages, bool drop)
{
	struct mapdev_outcome *outcome;
	unsigned long pgoff;
	struct page *page;
	bool dropped;

	/* what has been allowed and not been used yet is not allowed any more */
	spin_lock(&memory->lock);
	for (outcome = memory->outcomes; outcome < memory->outcomes + MAPDEV_OUTCOMES; outcome++)
		if (outcome->opcode != MAPDEV_FAULT && outcome->pgoff - first < npages)
			outcome->task = NULL;
	spin_unlock(&memory->lock);

	drop = drop && memory->kind == MAPDEV_MEM_FAULT;
	pgoff = first;
	while ((page = mapdev_next_page(memory, &pgoff, first + npages - 1))) {
		lock_page(page);
		dropped = drop && xa_cmpxchg(&memory->pages, pgoff, page, NULL, GFP_KERNEL) == page;
		if (dropped) {
			unmap_mapping_range(memory->mapping, (loff_t)pgoff << PAGE_SHIFT,
					    PAGE_SIZE, 0);
			mapdev_page_own(page, NULL, 0);
		}
		unlock_page(page);
		put_page(page);
		if (dropped) {
			put_page(page);
			mapdev_memory_uncharge(PAGE_SIZE);
		}
		pgoff++;
		cond_resched();
	}
	unmap_mapping_range(memory->mapping, (loff_t)first << PAGE_SHIFT,
			    (loff_t)npages << PAGE_SHIFT, 0);
}

/* -- read(2) and write(2) of a device that has memory and does not define them --------------- */

static ssize_t mapdev_io_page(struct mapdev_file *file, struct iov_iter *iter, pgoff_t pgoff,
			      size_t offset, size_t part, bool write)
{
	struct mapdev_fault_in in = { .pgoff = pgoff, .flags = write ? MAPDEV_FAULT_WRITE : 0 };
	struct mapdev_mem *memory = file->memory;
	struct page *page;
	size_t done;
	int error;

	for (;;) {
		page = mapdev_memory_page(memory, pgoff);
		if (IS_ERR(page))
			return PTR_ERR(page);
		if (page)
			break;
		if (!mapdev_asks(file, MAPDEV_FAULT))
			return -EIO;
		in.memory = memory->id;
		error = mapdev_call_page(file, memory, MAPDEV_FAULT, &in);
		if (error)
			return error;
	}
	if (!write) {
		done = copy_page_to_iter(page, offset, part, iter);
	} else {
		done = copy_page_from_iter(page, offset, part, iter);
		lock_page(page);
		set_page_dirty(page);
		unlock_page(page);
	}
	put_page(page);
	return done;
}

/* Copy between the memory of a file and a program. At the end: 0 read, ENOSPC written. */
ssize_t mapdev_memory_io(struct mapdev_file *file, struct iov_iter *iter, loff_t pos, bool write)
{
	struct mapdev_mem *memory = file->memory;
	loff_t length = (loff_t)memory->npages << PAGE_SHIFT;
	size_t part, count = iov_iter_count(iter);
	ssize_t done = 0, n;

	if (pos < 0)
		return -EINVAL;
	if (write && !mapdev_memory_writable(memory))
		return -EPERM;
	if (!count)
		return 0;
	if (pos >= length)
		return write ? -ENOSPC : 0;
	count = min_t(u64, count, length - pos);

	while (count) {
		part = min_t(size_t, count, PAGE_SIZE - offset_in_page(pos));
		if (memory->kind == MAPDEV_MEM_DMA)
			n = write ? copy_from_iter(memory->vaddr + pos, part, iter) :
				    copy_to_iter(memory->vaddr + pos, part, iter);
		else
			n = mapdev_io_page(file, iter, pos >> PAGE_SHIFT, offset_in_page(pos), part,
					   write);
		if (n < 0)
			return done ?: n;
		done += n;
		pos += n;
		count -= n;
		if (n < part)
			return done ?: -EFAULT;
		if (fatal_signal_pending(current))
			return done ?: -EINTR;
		cond_resched();
	}
	return done;
}
