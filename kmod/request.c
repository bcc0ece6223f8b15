// SPDX-License-Identifier: GPL-2.0-only
/*
 * The queue between programs and the author: requests that wait for an answer, and notices.
 *
 * A call (struct mapdev_call) is one request. It is QUEUED, then READ by the author, then
 * ANSWERING for the moment in which a reply is put in place, then DONE. Whoever waits for it may
 * leave at any time but during ANSWERING: a program that is killed or whose time is over takes
 * its call out of the queue, and if the author has read it already, an INTERRUPT tells that
 * nobody waits. A reply finds calls by number and only while they are in the table, so a late one
 * is ENOENT.
 *
 * Several programs may wait for one call: those that fault on the same page.
 *
 * Everything here is under mapdev_queue.lock, except for copying to and from user space, and
 * except that who has set ANSWERING owns the answer until DONE.
 */
#include <linux/hash.h>
#include <linux/pid_namespace.h>
#include <linux/poll.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "mapdev.h"

void mapdev_queue_init(struct mapdev_queue *queue)
{
	spin_lock_init(&queue->lock);
	INIT_LIST_HEAD(&queue->messages);
	hash_init(queue->by_unique);
	hash_init(queue->by_page);
	init_waitqueue_head(&queue->readers);
	init_waitqueue_head(&queue->room);
}

/* -- calls ----------------------------------------------------------------------------------- */

void mapdev_call_put(struct mapdev_call *call)
{
	if (!call || !refcount_dec_and_test(&call->refs))
		return;
	if (call->task)
		put_task_struct(call->task);
	mapdev_memory_put(call->memory);
	kvfree(call->payload);
	kvfree(call->message.payload);
	kfree(call);
}

static void mapdev_head(struct mapdev_file *file, struct mapdev_message *message, u32 opcode,
			u32 body_len)
{
	struct mapdev_control *control = file->device->control;
	struct user_namespace *ns = control->cred->user_ns;

	message->body_len = body_len;
	message->head.len = sizeof(message->head) + body_len + message->payload_len;
	message->head.opcode = opcode;
	message->head.file = file->id;
	message->head.pid = pid_nr_ns(task_tgid(current), control->pid_ns);
	message->head.uid = from_kuid_munged(ns, current_fsuid());
	message->head.gid = from_kgid_munged(ns, current_fsgid());
	message->head.flags = file->file->f_flags;
}

/* A call with room for a payload, not in the queue yet. ERR_PTR(-ENOMEM). */
struct mapdev_call *mapdev_call_new(struct mapdev_file *file, u32 opcode, u32 body_len,
				    u32 payload_len)
{
	struct mapdev_call *call = kzalloc(sizeof(*call), GFP_KERNEL_ACCOUNT);

	if (!call)
		return ERR_PTR(-ENOMEM);
	if (payload_len) {
		call->message.payload = kvmalloc(payload_len, GFP_KERNEL_ACCOUNT);
		if (!call->message.payload) {
			kfree(call);
			return ERR_PTR(-ENOMEM);
		}
		call->message.payload_len = payload_len;
	}
	refcount_set(&call->refs, 1);
	init_waitqueue_head(&call->wait);
	INIT_LIST_HEAD(&call->message.link);
	INIT_LIST_HEAD(&call->interrupt.link);
	INIT_HLIST_NODE(&call->by_unique);
	INIT_HLIST_NODE(&call->by_page);
	call->message.call = call;
	call->interrupt.call = call;
	mapdev_head(file, &call->message, opcode, body_len);
	mapdev_head(file, &call->interrupt, MAPDEV_INTERRUPT, sizeof(struct mapdev_interrupt_in));
	if (opcode == MAPDEV_READ || opcode == MAPDEV_WRITE || opcode == MAPDEV_IOCTL)
		call->task = get_task_struct(current);
	return call;
}

static unsigned long mapdev_page_key(const struct mapdev_mem *memory, pgoff_t pgoff)
{
	return hash_ptr(memory, 32) ^ pgoff;
}

static struct mapdev_call *mapdev_find(struct mapdev_queue *queue, u64 unique)
{
	struct mapdev_call *call;

	hash_for_each_possible(queue->by_unique, call, by_unique, unique)
		if (call->message.head.unique == unique)
			return call;
	return NULL;
}

/*
 * A call that the author has read and nobody has answered, with a reference. NULL if there is
 * none.
 */
struct mapdev_call *mapdev_queue_find(struct mapdev_queue *queue, u64 unique)
{
	struct mapdev_call *call;

	spin_lock(&queue->lock);
	call = mapdev_find(queue, unique);
	if (call && call->state == MAPDEV_CALL_READ)
		refcount_inc(&call->refs);
	else
		call = NULL;
	spin_unlock(&queue->lock);
	return call;
}

static struct mapdev_call *mapdev_find_page(struct mapdev_queue *queue, u32 opcode,
					    const struct mapdev_mem *memory, pgoff_t pgoff)
{
	struct mapdev_call *call;

	hash_for_each_possible(queue->by_page, call, by_page, mapdev_page_key(memory, pgoff))
		if (call->page_of == memory && call->message.body.fault.pgoff == pgoff &&
		    call->message.head.opcode == opcode)
			return call;
	return NULL;
}

static void mapdev_enqueue(struct mapdev_queue *queue, struct mapdev_message *message)
{
	list_add_tail(&message->link, &queue->messages);
	wake_up(&queue->readers);
}

/* The queue lets go of a call: no reply finds it any more. */
static void mapdev_unhash(struct mapdev_queue *queue, struct mapdev_call *call)
{
	hash_del(&call->by_unique);
	if (!hlist_unhashed(&call->by_page))
		hash_del(&call->by_page);
	queue->calls--;
	wake_up(&queue->room);
}

static void mapdev_done(struct mapdev_queue *queue, struct mapdev_call *call, int error)
{
	lockdep_assert_held(&queue->lock);
	mapdev_unhash(queue, call);
	call->error = error;
	call->state = MAPDEV_CALL_DONE;
	wake_up_all(&call->wait);
}

/* Tell the author, once, that who waits has a signal, or waits no more. */
static void mapdev_interrupt(struct mapdev_queue *queue, struct mapdev_call *call)
{
	lockdep_assert_held(&queue->lock);
	if (call->interrupted || queue->dead)
		return;
	call->interrupted = true;
	call->interrupt.body.interrupt.unique = call->message.head.unique;
	refcount_inc(&call->refs);
	mapdev_enqueue(queue, &call->interrupt);
}

/* Nobody waits for a call any more. */
static void mapdev_abandon(struct mapdev_queue *queue, struct mapdev_call *call)
{
	unsigned int puts = 1;

	lockdep_assert_held(&queue->lock);
	mapdev_unhash(queue, call);
	if (call->state == MAPDEV_CALL_QUEUED) {
		/* the author has never heard of it, and need not */
		list_del_init(&call->message.link);
		if (!list_empty(&call->interrupt.link)) {
			list_del_init(&call->interrupt.link);
			puts++;
		}
	} else {
		mapdev_interrupt(queue, call);
	}
	call->error = -EINTR;
	call->state = MAPDEV_CALL_DONE;
	while (puts--)
		mapdev_call_put(call);	/* never the last: the caller has one */
}

static bool mapdev_call_done(struct mapdev_call *call)
{
	return READ_ONCE(call->state) == MAPDEV_CALL_DONE;
}

/*
 * Wait for an answer. A signal that does not kill is told to the author, and the wait goes on:
 * what the system call then returns is the author's to say. A kill or the device's time-out end
 * it.
 */
static int mapdev_call_wait(struct mapdev_file *file, struct mapdev_call *call)
{
	struct mapdev_queue *queue = &file->device->control->queue;
	unsigned int ms = file->device->timeout_ms;
	unsigned long timeout = ms ? msecs_to_jiffies(ms) : MAX_SCHEDULE_TIMEOUT;
	unsigned long begin = jiffies;
	long left;
	int error;

	left = wait_event_interruptible_timeout(call->wait, mapdev_call_done(call), timeout);
	if (left < 0 && !fatal_signal_pending(current)) {
		spin_lock(&queue->lock);
		if (call->state != MAPDEV_CALL_DONE)
			mapdev_interrupt(queue, call);
		spin_unlock(&queue->lock);
		if (ms)
			timeout -= min(jiffies - begin, timeout);
		left = wait_event_killable_timeout(call->wait, mapdev_call_done(call), timeout);
	}

	spin_lock(&queue->lock);
	while (call->state == MAPDEV_CALL_ANSWERING) {
		/* a reply is being put in place, which waits for nothing but memory */
		spin_unlock(&queue->lock);
		wait_event(call->wait, READ_ONCE(call->state) != MAPDEV_CALL_ANSWERING);
		spin_lock(&queue->lock);
	}
	call->waiters--;
	error = call->error;
	if (call->state != MAPDEV_CALL_DONE) {
		error = left ? -EINTR : -ETIMEDOUT;
		if (!call->waiters)
			mapdev_abandon(queue, call);
	}
	spin_unlock(&queue->lock);
	return error;
}

/* Wait until the queue has room for one more call, and lock it. */
static int mapdev_lock_with_room(struct mapdev_queue *queue)
{
	unsigned int most = max(mapdev_max_requests, 1U);
	int error;

	for (;;) {
		spin_lock(&queue->lock);
		if (queue->dead) {
			spin_unlock(&queue->lock);
			return -ENODEV;
		}
		if (queue->calls < most)
			return 0;
		spin_unlock(&queue->lock);
		error = wait_event_killable(queue->room, READ_ONCE(queue->dead) ||
					    READ_ONCE(queue->calls) < most);
		if (error)
			return -EINTR;
	}
}

static void mapdev_send(struct mapdev_queue *queue, struct mapdev_call *call)
{
	call->message.head.unique = ++queue->unique;
	call->waiters = 1;
	refcount_inc(&call->refs);
	queue->calls++;
	hash_add(queue->by_unique, &call->by_unique, call->message.head.unique);
	mapdev_enqueue(queue, &call->message);
}

/*
 * Ask the author and wait for the answer, which is in the call. Killable. A negative errno: there
 * is no answer.
 */
int mapdev_call_ask(struct mapdev_file *file, struct mapdev_call *call)
{
	struct mapdev_queue *queue = &file->device->control->queue;
	int error = mapdev_lock_with_room(queue);

	if (error)
		return error;
	mapdev_send(queue, call);
	spin_unlock(&queue->lock);
	return mapdev_call_wait(file, call);
}

/* The same for a page. Who comes while it is being asked for waits for the same answer. */
int mapdev_call_page(struct mapdev_file *file, struct mapdev_mem *memory, u32 opcode,
		     const struct mapdev_fault_in *in)
{
	struct mapdev_queue *queue = &file->device->control->queue;
	struct mapdev_call *call, *found;
	int error;

	call = mapdev_call_new(file, opcode, sizeof(*in), 0);
	if (IS_ERR(call))
		return PTR_ERR(call);
	call->message.body.fault = *in;
	call->page_of = memory;
	if (opcode == MAPDEV_FAULT)
		call->payload_max = sizeof(struct mapdev_fault_out) + MAPDEV_MAX_TRANSFER;

	spin_lock(&queue->lock);
	found = mapdev_find_page(queue, opcode, memory, in->pgoff);
	if (!found) {
		spin_unlock(&queue->lock);
		error = mapdev_lock_with_room(queue);
		if (error)
			goto out;
		found = mapdev_find_page(queue, opcode, memory, in->pgoff);
	}
	/* answered since the caller looked: pages are stored before their call is done */
	if (!found && opcode == MAPDEV_FAULT && xa_load(&memory->pages, in->pgoff)) {
		spin_unlock(&queue->lock);
		error = 0;
		goto out;
	}
	if (found) {
		found->waiters++;
		refcount_inc(&found->refs);
		mapdev_call_put(call);
		call = found;
	} else {
		mapdev_send(queue, call);
		hash_add(queue->by_page, &call->by_page, mapdev_page_key(memory, in->pgoff));
	}
	spin_unlock(&queue->lock);
	error = mapdev_call_wait(file, call);
out:
	mapdev_call_put(call);
	return error;
}

/* -- notices --------------------------------------------------------------------------------- */

struct mapdev_message *mapdev_notice_new(gfp_t gfp)
{
	struct mapdev_message *notice = kzalloc(sizeof(*notice), gfp);

	if (notice)
		INIT_LIST_HEAD(&notice->link);
	return notice;
}

/*
 * Whether so many notices are unread that no more should be begun. Those that are owed are sent
 * nevertheless.
 */
bool mapdev_notices_full(struct mapdev_file *file)
{
	return READ_ONCE(file->device->control->queue.notices) >= mapdev_max_notices;
}

/* Never fails, never waits. Takes the notice. */
void mapdev_notice_send(struct mapdev_file *file, struct mapdev_message *notice, u32 opcode,
			u32 body_len)
{
	struct mapdev_queue *queue = &file->device->control->queue;

	mapdev_head(file, notice, opcode, body_len);
	spin_lock(&queue->lock);
	if (!queue->dead) {
		queue->notices++;
		mapdev_enqueue(queue, notice);
		notice = NULL;
	}
	spin_unlock(&queue->lock);
	kfree(notice);
}

/* -- the author's side ----------------------------------------------------------------------- */

/* The device goes: who waits gets ENODEV, who reads too. */
void mapdev_queue_abort(struct mapdev_queue *queue)
{
	struct mapdev_message *message;
	struct mapdev_call *call;
	struct hlist_node *next;
	LIST_HEAD(unread);
	int bucket;

	spin_lock(&queue->lock);
	queue->dead = true;
	list_splice_init(&queue->messages, &unread);
	queue->notices = 0;
	hash_for_each_safe(queue->by_unique, bucket, next, call, by_unique) {
		if (call->state == MAPDEV_CALL_ANSWERING)
			continue;	/* is done in a moment, and put then */
		list_del_init(&call->message.link);
		mapdev_done(queue, call, -ENODEV);
		mapdev_call_put(call);	/* who waits has another one */
	}
	spin_unlock(&queue->lock);

	while ((message = list_first_entry_or_null(&unread, struct mapdev_message, link))) {
		list_del_init(&message->link);
		if (message->call)
			mapdev_call_put(message->call);	/* an INTERRUPT */
		else
			kfree(message);
	}
	wake_up_all(&queue->readers);
	wake_up_all(&queue->room);
}

static bool mapdev_queue_ready(struct mapdev_queue *queue)
{
	return READ_ONCE(queue->dead) || !list_empty_careful(&queue->messages);
}

__poll_t mapdev_queue_poll(struct mapdev_queue *queue, struct file *file, poll_table *wait)
{
	poll_wait(file, &queue->readers, wait);
	if (READ_ONCE(queue->dead))
		return EPOLLERR | EPOLLHUP;
	return EPOLLOUT | EPOLLWRNORM | (mapdev_queue_ready(queue) ? EPOLLIN | EPOLLRDNORM : 0);
}

static bool mapdev_copy_message(struct mapdev_message *message, struct iov_iter *to)
{
	return copy_to_iter(&message->head, sizeof(message->head), to) == sizeof(message->head) &&
	       copy_to_iter(&message->body, message->body_len, to) == message->body_len &&
	       copy_to_iter(message->payload, message->payload_len, to) == message->payload_len;
}

/* Give the next message. If it cannot be copied it is the next one again. */
ssize_t mapdev_queue_read(struct mapdev_queue *queue, struct iov_iter *to, bool nonblock)
{
	struct mapdev_message *message;
	struct mapdev_call *call;
	bool request, again = false;
	ssize_t len;

	if (iov_iter_count(to) < MAPDEV_MIN_BUFFER)
		return -EINVAL;

	spin_lock(&queue->lock);
	while (!queue->dead && list_empty(&queue->messages)) {
		spin_unlock(&queue->lock);
		if (nonblock)
			return -EAGAIN;
		if (wait_event_interruptible_exclusive(queue->readers, mapdev_queue_ready(queue)))
			return -ERESTARTSYS;
		spin_lock(&queue->lock);
	}
	if (queue->dead) {
		spin_unlock(&queue->lock);
		return -ENODEV;
	}
	message = list_first_entry(&queue->messages, struct mapdev_message, link);
	list_del_init(&message->link);
	call = message->call;
	request = call && message == &call->message;
	if (request) {
		call->state = MAPDEV_CALL_READ;
		refcount_inc(&call->refs);
	} else if (!call) {
		queue->notices--;
	}
	spin_unlock(&queue->lock);

	len = message->head.len;
	if (!mapdev_copy_message(message, to)) {
		len = -EFAULT;
		spin_lock(&queue->lock);
		/* a call may have ended meanwhile: then there is nothing to ask again */
		again = !queue->dead && !(request && call->state != MAPDEV_CALL_READ);
		if (again) {
			if (request)
				call->state = MAPDEV_CALL_QUEUED;
			else if (!call)
				queue->notices++;
			list_add(&message->link, &queue->messages);
			wake_up(&queue->readers);
		}
		spin_unlock(&queue->lock);
	}
	if (request)
		mapdev_call_put(call);
	else if (call && !again)
		mapdev_call_put(call);
	else if (!again)
		kfree(message);
	return len;
}

/* What is wrong with a reply that can be told without its payload: 0 or -EINVAL. */
static int mapdev_check_reply(const struct mapdev_call *call, const struct mapdev_reply *reply,
			      u32 payload_len)
{
	u64 most = 0;
	u32 flags = 0;

	if (reply->error)
		return payload_len || reply->value || reply->flags ? -EINVAL : 0;
	if (payload_len > call->payload_max)
		return -EINVAL;

	switch (call->message.head.opcode) {
	case MAPDEV_OPEN:
		flags = MAPDEV_REPLY_NONSEEKABLE | MAPDEV_REPLY_STREAM;
		break;
	case MAPDEV_WRITE:
		most = call->message.body.read.count;
		break;
	case MAPDEV_IOCTL:
		most = INT_MAX;
		break;
	case MAPDEV_POLL:
		if (reply->value & ~(u64)MAPDEV_POLL_MASK)
			return -EINVAL;
		most = MAPDEV_POLL_MASK;
		break;
	case MAPDEV_MMAP:
		most = MAPDEV_MAX_MEMORIES;
		break;
	case MAPDEV_FAULT:
		if (payload_len < sizeof(struct mapdev_fault_out))
			return -EINVAL;
		break;
	}
	return reply->value > most || reply->flags & ~flags ? -EINVAL : 0;
}

/* The pages of a FAULT reply, copied. They are charged. */
static struct page **mapdev_copy_pages(struct mapdev_call *call, struct iov_iter *from,
				       u32 payload_len, struct mapdev_fault_out *out)
{
	u64 asked = call->message.body.fault.pgoff;
	struct page **pages;
	int error = -EFAULT;
	u32 i, n;

	if (!copy_from_iter_full(out, sizeof(*out), from))
		return ERR_PTR(-EFAULT);
	n = out->npages;
	if (out->reserved || !n || n > MAPDEV_MAX_TRANSFER / PAGE_SIZE ||
	    payload_len != sizeof(*out) + n * PAGE_SIZE ||
	    out->pgoff > asked || asked - out->pgoff >= n)
		return ERR_PTR(-EINVAL);

	error = mapdev_memory_charge((u64)n * PAGE_SIZE);
	if (error)
		return ERR_PTR(error);
	pages = kcalloc(n, sizeof(*pages), GFP_KERNEL);
	if (!pages) {
		mapdev_memory_uncharge((u64)n * PAGE_SIZE);
		return ERR_PTR(-ENOMEM);
	}
	for (i = 0; i < n; i++) {
		error = -ENOMEM;
		pages[i] = alloc_page(GFP_KERNEL_ACCOUNT);
		if (!pages[i])
			goto undo;
		error = -EFAULT;
		if (copy_page_from_iter(pages[i], 0, PAGE_SIZE, from) != PAGE_SIZE) {
			put_page(pages[i]);
			goto undo;
		}
	}
	return pages;

undo:
	while (i--)
		put_page(pages[i]);
	kfree(pages);
	mapdev_memory_uncharge((u64)n * PAGE_SIZE);
	return ERR_PTR(error);
}

/*
 * One reply. First all of it is looked at and copied, with the call still waiting; then the call
 * is claimed, so that of two replies the second is ENOENT; then the answer is put in place.
 */
ssize_t mapdev_queue_reply(struct mapdev_control *control, struct iov_iter *from)
{
	struct mapdev_queue *queue = &control->queue;
	size_t len = iov_iter_count(from);
	struct mapdev_mem *memory = NULL;
	struct mapdev_fault_out out;
	struct page **pages = NULL;
	struct mapdev_reply reply;
	struct mapdev_call *call;
	void *payload = NULL;
	u32 payload_len, i;
	int error;

	if (len < sizeof(reply))
		return -EINVAL;
	if (!copy_from_iter_full(&reply, sizeof(reply), from))
		return -EFAULT;
	if (reply.len != len || reply.reserved || reply.error > 0 || reply.error < -511)
		return -EINVAL;
	payload_len = len - sizeof(reply);

	call = mapdev_queue_find(queue, reply.unique);
	if (!call)
		return -ENOENT;
	error = mapdev_check_reply(call, &reply, payload_len);
	if (error)
		goto out;

	if (call->message.head.opcode == MAPDEV_FAULT && !reply.error) {
		pages = mapdev_copy_pages(call, from, payload_len, &out);
		if (IS_ERR(pages)) {
			error = PTR_ERR(pages);
			pages = NULL;
			goto out;
		}
	} else if (payload_len) {
		error = -ENOMEM;
		payload = kvmalloc(payload_len, GFP_KERNEL_ACCOUNT);
		if (!payload)
			goto out;
		error = -EFAULT;
		if (!copy_from_iter_full(payload, payload_len, from))
			goto out;
	}
	if (call->message.head.opcode == MAPDEV_MMAP && !reply.error) {
		error = -EINVAL;
		memory = mapdev_control_memory(control, reply.value);
		if (!memory)
			goto out;
	}

	error = 0;
	spin_lock(&queue->lock);
	if (call->state == MAPDEV_CALL_READ)
		call->state = MAPDEV_CALL_ANSWERING;
	else
		error = -ENOENT;
	spin_unlock(&queue->lock);
	if (error)
		goto out;

	if (pages)	/* who waits keeps the memory */
		error = mapdev_memory_fill(call->page_of, out.pgoff, pages, out.npages);

	spin_lock(&queue->lock);
	if (error && !queue->dead) {
		call->state = MAPDEV_CALL_READ;	/* as if nothing had been said */
		wake_up_all(&call->wait);
		spin_unlock(&queue->lock);
		goto out;
	}
	call->value = reply.value;
	call->flags = reply.flags;
	swap(call->payload, payload);
	call->payload_len = payload_len;
	swap(call->memory, memory);
	mapdev_done(queue, call, error ? -ENODEV : reply.error);
	spin_unlock(&queue->lock);
	mapdev_call_put(call);	/* the queue's */
	error = 0;
out:
	if (pages) {
		for (i = 0; i < out.npages; i++) {
			if (!pages[i])	/* has gone into the memory, with its charge */
				continue;
			put_page(pages[i]);
			mapdev_memory_uncharge(PAGE_SIZE);
		}
		kfree(pages);
	}
	mapdev_memory_put(memory);
	kvfree(payload);
	mapdev_call_put(call);
	return error ?: len;
}
