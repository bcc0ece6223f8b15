/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the module know of each other. uapi/mapdev.h tells what a program sees.
 *
 * Objects and who holds them (-> is a counted reference)
 *
 *	file of /dev/mapdev -> control
 *	device              -> control (none if the device is persistent), its shared memory
 *	open file           -> device, memory that it is bound to
 *	area                -> file of the device, memory
 *	vm_area_struct      -> file of the area (vm_file)
 *	control             -> every memory that has an id
 *	call                is held by each who waits for it, and by the queue until the answer
 *
 * So nothing goes while something can still come to it. Removing a device takes its name away,
 * ends all waiting, and sets `gone`, which every operation looks at; the objects go when the last
 * descriptor and the last mapping do.
 *
 * An area is an anonymous struct file that mmap(2) puts in place of the device's own (see vma.c).
 * Its f_mapping is the address space of the memory: that is how every mapping of one memory,
 * through whatever file, is found for unmapping, and why memory of a memfd is mapped as if the
 * memfd itself were.
 *
 * Locks, outermost first. Nothing of this is held while a program waits for the author, save for
 * what the VFS holds: mmap_lock in MMAP, epoll's mutex in POLL, the position's in READ and WRITE
 * of a /proc file.
 *
 *	mapdev_control.lock	creating the one device of a control
 *	mapdev_devices_lock	the list of devices, and names being taken; never taken by an open
 *	mmap_lock, page lock	(of the kernel)
 *	mapdev_device.files_lock
 *	mapdev_queue.lock
 *	mapdev_memory.lock	outcomes of page faults
 */
#ifndef _MAPDEV_H
#define _MAPDEV_H

#include <linux/cdev.h>
#include <linux/cred.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/hashtable.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/uio.h>
#include <linux/wait.h>
#include <linux/xarray.h>

#include "compat.h"
#include "uapi/mapdev.h"

/*
 * A memory's pages are at (id << MAPDEV_LENGTH_BITS) of the control. Ids fit in what is left of a
 * positive loff_t.
 */
#define MAPDEV_LENGTH_BITS	44
#define MAPDEV_MAX_LENGTH	(1ULL << MAPDEV_LENGTH_BITS)
#define MAPDEV_MAX_MEMORIES	((1U << (63 - MAPDEV_LENGTH_BITS)) - 1)

/*
 * What poll may say, and a wake may name: POLLFREE, for one, would take epoll off the wait queue.
 */
#define MAPDEV_POLL_MASK	(POLLIN | POLLPRI | POLLOUT | POLLERR | POLLHUP | POLLRDNORM | \
				 POLLRDBAND | POLLWRNORM | POLLWRBAND | POLLMSG | POLLRDHUP)

struct mapdev_call;
struct mapdev_control;
struct mapdev_file;

/* -- request.c: what is asked, and how it is waited for -------------------------------------- */

/* One read(2) of the control. */
struct mapdev_message {
	struct list_head link;		/* in mapdev_queue.messages */
	struct mapdev_call *call;	/* it is part of that; NULL: freed once it is read */
	struct mapdev_request head;
	union {
		struct mapdev_read_in read;
		struct mapdev_ioctl_in ioctl;
		struct mapdev_poll_in poll;
		struct mapdev_vma_in vma;
		struct mapdev_fault_in fault;
		struct mapdev_interrupt_in interrupt;
		struct mapdev_fsync_in fsync;
	} body;
	u32 body_len;
	u32 payload_len;
	void *payload;
};

enum mapdev_call_state {
	MAPDEV_CALL_QUEUED,
	MAPDEV_CALL_READ,	/* the author has it */
	MAPDEV_CALL_ANSWERING,	/* a reply is being put in place: will be DONE in a moment */
	MAPDEV_CALL_DONE,
};

/* One request. */
struct mapdev_call {
	refcount_t refs;
	/* under mapdev_queue.lock: */
	enum mapdev_call_state state;
	unsigned int waiters;
	bool interrupted;
	struct hlist_node by_unique;
	struct hlist_node by_page;

	wait_queue_head_t wait;
	struct mapdev_message message;
	struct mapdev_message interrupt;
	struct task_struct *task;	/* whose memory FETCH and STORE may touch, or NULL */
	struct mapdev_mem *page_of;	/* FAULT, VM_FAULT, PAGE_MKWRITE; held by the waiters' areas */
	u32 payload_max;		/* bytes of payload that a reply may have */

	/* the answer, once it is DONE */
	int error;
	u32 flags;
	u64 value;
	u32 payload_len;
	void *payload;
	struct mapdev_mem *memory;
};

struct mapdev_queue {
	spinlock_t lock;
	bool dead;
	u64 unique;
	unsigned int calls;
	unsigned int notices;
	struct list_head messages;
	DECLARE_HASHTABLE(by_unique, 6);
	DECLARE_HASHTABLE(by_page, 6);
	wait_queue_head_t readers;
	wait_queue_head_t room;
};

void mapdev_queue_init(struct mapdev_queue *queue);
void mapdev_queue_abort(struct mapdev_queue *queue);
ssize_t mapdev_queue_read(struct mapdev_queue *queue, struct iov_iter *to, bool nonblock);
ssize_t mapdev_queue_reply(struct mapdev_control *control, struct iov_iter *from);
__poll_t mapdev_queue_poll(struct mapdev_queue *queue, struct file *file, poll_table *wait);
struct mapdev_call *mapdev_queue_find(struct mapdev_queue *queue, u64 unique);

struct mapdev_call *mapdev_call_new(struct mapdev_file *file, u32 opcode, u32 body_len,
				    u32 payload_len);
int mapdev_call_ask(struct mapdev_file *file, struct mapdev_call *call);
int mapdev_call_page(struct mapdev_file *file, struct mapdev_mem *memory, u32 opcode,
		     const struct mapdev_fault_in *in);
void mapdev_call_put(struct mapdev_call *call);

struct mapdev_message *mapdev_notice_new(gfp_t gfp);
void mapdev_notice_send(struct mapdev_file *file, struct mapdev_message *notice, u32 opcode,
			u32 body_len);
bool mapdev_notices_full(struct mapdev_file *file);

/* -- memory.c: pages ------------------------------------------------------------------------- */

#define MAPDEV_OUTCOMES	64

/*
 * How a page fault of a task ended while it had let go of mmap_lock; it finds this when it comes
 * again.
 */
struct mapdev_outcome {
	struct task_struct *task;	/* only compared */
	pgoff_t pgoff;
	u32 opcode;
	int error;
};

struct mapdev_mem {
	struct kref ref;
	u32 kind;
	u32 id;				/* in mapdev_control.memories; 0: no more, or never */
	pgoff_t npages;
	struct inode *inode;
	struct address_space *mapping;	/* of the inode, or of the memfd */
	struct file *memfd;		/* MEMFD */
	struct xarray pages;		/* ARRAY, FAULT */
	void *vaddr;			/* VMALLOC, CONTIGUOUS, DMA */
	dma_addr_t dma;
	spinlock_t lock;
	unsigned int next_outcome;
	struct mapdev_outcome outcomes[MAPDEV_OUTCOMES];
};

/* What a memory is to be made as. `init` is in the kernel. */
struct mapdev_memory_plan {
	u32 kind;
	int memfd;
	u64 length;
	void *init;
	u32 init_len;
};

int mapdev_memory_plan(struct mapdev_memory_plan *plan, const struct mapdev_memory *asked);
void mapdev_memory_unplan(struct mapdev_memory_plan *plan);
struct mapdev_mem *mapdev_memory_new(const struct mapdev_memory_plan *plan);
struct mapdev_mem *mapdev_memory_get(struct mapdev_mem *memory);
void mapdev_memory_put(struct mapdev_mem *memory);

bool mapdev_memory_writable(struct mapdev_mem *memory);
struct page *mapdev_memory_page(struct mapdev_mem *memory, pgoff_t pgoff);
struct page *mapdev_memory_present(struct mapdev_mem *memory, pgoff_t pgoff);
bool mapdev_memory_holds(struct mapdev_mem *memory, pgoff_t pgoff, struct page *page);
int mapdev_memory_fill(struct mapdev_mem *memory, pgoff_t pgoff, struct page **pages,
		       unsigned int npages);
int mapdev_memory_charge(u64 bytes);
void mapdev_memory_uncharge(u64 bytes);
u64 mapdev_memory_used(void);
int mapdev_memory_physical(struct mapdev_mem *memory, pgoff_t pgoff, u64 *physical);
void mapdev_memory_unmap(struct mapdev_mem *memory, pgoff_t first, pgoff_t npages,
			 bool drop);
ssize_t mapdev_memory_io(struct mapdev_file *file, struct iov_iter *iter, loff_t pos, bool write);

/* -- vma.c: mappings and page faults --------------------------------------------------------- */

struct inode *mapdev_area_inode(void);
void mapdev_area_inode_put(struct inode *inode);
int mapdev_area_map(struct vm_area_struct *vma, struct mapdev_mem *memory,
		    struct mapdev_file *file, pgoff_t pgoff);
int mapdev_area_ask(struct mapdev_file *file, struct vm_area_struct *vma,
		    struct mapdev_mem **memory);

/* -- device.c: devices and their names ------------------------------------------------------- */

struct mapdev_device {
	struct device dev;		/* its count is the count of the whole */
	struct cdev cdev;
	struct list_head link;		/* in mapdev_devices */
	struct mapdev_control *control;	/* NULL: persistent */
	char name[MAPDEV_NAME_MAX + 1];
	u32 flags;
	u64 ops;
	umode_t mode;
	kuid_t uid;
	kgid_t gid;
	kuid_t creator;
	unsigned int timeout_ms;
	struct pid *pid;
	struct proc_dir_entry *pde;
	int minor;			/* from mapdev_minors, or -1 */
	bool gone;
	struct mapdev_memory_plan plan;	/* PER_OPEN */
	struct mapdev_mem *memory;	/* shared */
	u64 length;
	u32 kind;
	spinlock_t files_lock;
	struct list_head files;
	unsigned int nfiles;
};

int mapdev_devices_init(void);
void mapdev_devices_exit(void);
struct mapdev_device *mapdev_device_new(struct mapdev_control *control,
					struct mapdev_create *create);
void mapdev_device_remove(struct mapdev_device *device);
int mapdev_device_remove_named(const struct mapdev_remove *remove);
int mapdev_device_info(struct mapdev_info *info);

/* -- file.c: open files and their operations ------------------------------------------------- */

struct mapdev_file {
	struct mapdev_device *device;
	struct file *file;
	struct list_head link;		/* in mapdev_device.files */
	u64 id;
	struct mapdev_mem *memory;	/* that it is bound to, or NULL */
	wait_queue_head_t wait;
	struct fasync_struct *fasync;
	struct mapdev_message *release;
};

extern const struct file_operations mapdev_file_fops;
extern const struct proc_ops mapdev_proc_ops;

int mapdev_file_fsync(struct file *file, loff_t start, loff_t end, int datasync);
void mapdev_files_wake(struct mapdev_device *device, u64 id, __poll_t events);
void mapdev_files_hang_up(struct mapdev_device *device);

static inline bool mapdev_asks(const struct mapdev_file *file, u32 opcode)
{
	return file->device->ops & MAPDEV_OP(opcode);
}

static inline bool mapdev_gone(const struct mapdev_file *file)
{
	return READ_ONCE(file->device->gone);
}

/* -- control.c: one open of /dev/mapdev ------------------------------------------------------ */

struct mapdev_control {
	struct kref ref;
	struct mapdev_queue queue;
	struct mutex lock;
	struct mapdev_device *device;
	struct pid_namespace *pid_ns;
	const struct cred *cred;
	struct mm_struct *mm;		/* of who read last; under queue.lock */
	struct xarray memories;
	u32 next_id;
};

extern const struct file_operations mapdev_control_fops;

void mapdev_control_put(struct mapdev_control *control);
int mapdev_control_register(struct mapdev_control *control, struct mapdev_mem *memory);
void mapdev_control_forget(struct mapdev_control *control, struct mapdev_mem *memory);
struct mapdev_mem *mapdev_control_memory(struct mapdev_control *control, u64 id);

/* -- main.c ---------------------------------------------------------------------------------- */

extern unsigned long mapdev_max_bytes;
extern unsigned int mapdev_max_requests;
extern unsigned int mapdev_max_notices;
struct device *mapdev_dma_device(void);

#endif
