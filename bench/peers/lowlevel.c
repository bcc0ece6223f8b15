// lowlevel MOUNTPOINT BYTES [threads]: the device of the bench on libfuse's low-level interface, as one writes it in C.
//
// Two files with the same memory: "memory" is for mappings (its pages go through the page cache, which the kernel
// fills by reads), "device" has read, write, ioctl and poll answered here (direct I/O). A write makes the device
// readable, a read makes it unreadable again. One thread, which here is the fastest way; with "threads" libfuse's pool.
#define FUSE_USE_VERSION 314
#include <errno.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define GET_COUNT _IOR('b', 1, uint64_t)
enum { MEMORY = 2, DEVICE = 3 };
static const double FOREVER = 1e6;

static char *memory;
static size_t size;
static uint64_t opens;
static int ready;
static struct fuse_pollhandle *polling;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int attributes(fuse_ino_t ino, struct stat *st)
{
    memset(st, 0, sizeof *st);
    st->st_ino = ino;
    st->st_uid = getuid();
    st->st_gid = getgid();
    if (ino == FUSE_ROOT_ID) {
        st->st_mode = S_IFDIR | 0700;
        st->st_nlink = 2;
    } else if (ino == MEMORY || ino == DEVICE) {
        st->st_mode = S_IFREG | 0600;
        st->st_nlink = 1;
        st->st_size = size;
    } else {
        return -1;
    }
    return 0;
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = {.attr_timeout = FOREVER, .entry_timeout = FOREVER};
    entry.ino = !strcmp(name, "memory") ? MEMORY : !strcmp(name, "device") ? DEVICE : 0;
    if (parent != FUSE_ROOT_ID || !entry.ino || attributes(entry.ino, &entry.attr))
        fuse_reply_err(req, ENOENT);
    else
        fuse_reply_entry(req, &entry);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st;
    (void)fi;
    if (attributes(ino, &st))
        fuse_reply_err(req, ENOENT);
    else
        fuse_reply_attr(req, &st, FOREVER);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    fi->direct_io = ino == DEVICE;
    __atomic_add_fetch(&opens, 1, __ATOMIC_RELAXED);
    fuse_reply_open(req, fi);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t count, off_t at, struct fuse_file_info *fi)
{
    (void)fi;
    if (ino == DEVICE)
        __atomic_store_n(&ready, 0, __ATOMIC_RELAXED);
    if ((size_t)at >= size)
        count = 0;
    else if (count > size - at)
        count = size - at;
    fuse_reply_buf(req, memory + at, count);
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t count, off_t at, struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    if ((size_t)at >= size) {
        fuse_reply_err(req, ENOSPC);
        return;
    }
    if (count > size - at)
        count = size - at;
    memcpy(memory + at, data, count);
    pthread_mutex_lock(&lock);
    ready = 1;
    struct fuse_pollhandle *woken = polling;
    polling = NULL;
    pthread_mutex_unlock(&lock);
    if (woken) {
        fuse_lowlevel_notify_poll(woken);
        fuse_pollhandle_destroy(woken);
    }
    fuse_reply_write(req, count);
}

static void do_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi, unsigned flags,
                     const void *in, size_t in_size, size_t out_size)
{
    (void)ino, (void)arg, (void)fi, (void)flags, (void)in, (void)in_size, (void)out_size;
    if (cmd != GET_COUNT)
        fuse_reply_err(req, ENOTTY);
    else
        fuse_reply_ioctl(req, 0, &opens, sizeof opens);
}

static void do_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *handle)
{
    (void)ino, (void)fi;
    pthread_mutex_lock(&lock);
    if (handle) {
        if (polling)
            fuse_pollhandle_destroy(polling);
        polling = handle;
    }
    int now = ready;
    pthread_mutex_unlock(&lock);
    fuse_reply_poll(req, POLLOUT | (now ? POLLIN : 0));
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = do_lookup, .getattr = do_getattr, .open = do_open, .read = do_read,
    .write = do_write,   .ioctl = do_ioctl,     .poll = do_poll, // without flush and release libfuse answers ENOSYS
};

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: lowlevel MOUNTPOINT BYTES [threads]\n");
        return 2;
    }
    size = strtoull(argv[2], NULL, 10);
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (!session || fuse_set_signal_handlers(session) || fuse_session_mount(session, argv[1]))
        return 1;
    puts("ready");
    fflush(stdout);
    struct fuse_loop_config *config = argc > 3 ? fuse_loop_cfg_create() : NULL;
    int ended = config ? fuse_session_loop_mt(session, config) : fuse_session_loop(session);
    fuse_session_unmount(session);
    fuse_session_destroy(session);
    return ended < 0;
}
