/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Names of the newest kernel on older ones, so that the other files read as if there were only
 * that one. HAVE_* come from the probes in Kbuild: stable kernels get names from later ones, so
 * version numbers would lie.
 */
#ifndef _MAPDEV_COMPAT_H
#define _MAPDEV_COMPAT_H

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/proc_fs.h>
#include <linux/shmem_fs.h>
#if __has_include(<linux/pfn_t.h>)
#include <linux/pfn_t.h>
#endif

struct path;

/* exported everywhere, in a public header since 6.10 */
int vfs_path_lookup(struct dentry *dentry, struct vfsmount *mnt, const char *name,
		    unsigned int flags, struct path *path);

#ifndef HAVE_VMA_SET_FILE	/* 295992fb815e, 5.11 */
static inline void vma_set_file(struct vm_area_struct *vma, struct file *file)
{
	get_file(file);
	swap(vma->vm_file, file);
	fput(file);
}
#endif

#ifndef HAVE_VM_FLAGS_SET	/* bc292ab00f6c, 6.3 */
static inline void vm_flags_set(struct vm_area_struct *vma, vm_flags_t flags)
{
	vma->vm_flags |= flags;
}

static inline void vm_flags_clear(struct vm_area_struct *vma, vm_flags_t flags)
{
	vma->vm_flags &= ~flags;
}
#endif

#ifndef HAVE_PDE_DATA		/* 359745d78351, 5.17 */
#define pde_data PDE_DATA
#endif

#ifdef HAVE_DEVNODE_CONST	/* a9b12f8b4b00, 6.2 */
#define mapdev_devnode_const const
#else
#define mapdev_devnode_const
#endif

/* map_pages has answered since f9ce0be71d1f, 5.12 */
#ifdef HAVE_MAP_PAGES_RESULT
#define mapdev_map_pages_t vm_fault_t
#define mapdev_map_pages_return(call) return call
#else
#define mapdev_map_pages_t void
#define mapdev_map_pages_return(call) call
#endif

static inline vm_fault_t mapdev_insert_pfn(struct vm_area_struct *vma, unsigned long address,
					   unsigned long pfn)
{
#if __has_include(<linux/pfn_t.h>)	/* gone with 21aa65bf82a7, 6.17 */
	return vmf_insert_mixed(vma, address, __pfn_to_pfn_t(pfn, PFN_DEV));
#else
	return vmf_insert_mixed(vma, address, pfn);
#endif
}

/*
 * Whether a file is one of shmem: 1, 0, or -ENOMEM. shmem_mapping() is everywhere, but was exported
 * in 6.9 only: before, operations are compared with those of a file that is known to be one.
 */
static inline int mapdev_is_shmem(struct file *file)
{
#ifdef EMPTY_VMA_FLAGS	/* a later kernel than 6.9, and shmem_file_setup() is another */
	return shmem_mapping(file->f_mapping);
#else
	struct file *known = shmem_file_setup("mapdev", 0, 0);
	int same;

	if (IS_ERR(known))	/* ENOSPC, too, is an inode that could not be allocated */
		return -ENOMEM;
	same = file->f_mapping->a_ops == known->f_mapping->a_ops;
	fput(known);
	return same;
#endif
}

/* The address space that a page is in, with the page locked. */
static inline struct address_space *mapdev_page_mapping(struct page *page)
{
#ifdef page_folio		/* 7b230db3b8d3, 5.16 */
	return page_folio(page)->mapping;
#else
	return compound_head(page)->mapping;
#endif
}

/*
 * Before 5.18 unmap_mapping_range() spares private copies by looking at page->mapping: who wants
 * to be found by it must have it set, and cleared again before the page is freed. Since
 * 2e148f1e3d9a it looks whether a page is anonymous.
 */
#ifdef HAVE_ZAP_CHECK_MAPPING
#define MAPDEV_OWNED_PAGES	1
static inline void mapdev_page_own(struct page *page, struct address_space *mapping, pgoff_t pgoff)
{
	page->mapping = mapping;
	page->index = mapping ? pgoff : 0;
}
#else
#define MAPDEV_OWNED_PAGES	0
static inline void mapdev_page_own(struct page *page, struct address_space *mapping, pgoff_t pgoff)
{
}
#endif

#endif
