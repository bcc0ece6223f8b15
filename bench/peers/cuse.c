// cuse NAME BYTES: the device of the bench as a character device in user space, /dev/NAME, on libfuse's CUSE interface.
// As lowlevel.c, but what CUSE lacks: mmap.
#define FUSE_USE_VERSION 314
#include <cuse_lowlevel.h>
#include <errno.h>
#include <fuse_opt.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define GET_COUNT _IOR('b', 1, uint64_t)

static char *memory;
static size_t size;
static uint64_t opens;
static int ready;
static struct fuse_pollhandle *polling;

static void do_open(fuse_req_t req, struct fuse_file_info *fi)
{
    opens++;
    fuse_reply_open(req, fi);
}

static void do_read(fuse_req_t req, size_t count, off_t at, struct fuse_file_info *fi)
{
    (void)fi;
    ready = 0;
    if ((size_t)at >= size)
        count = 0;
    else if (count > size - at)
        count = size - at;
    fuse_reply_buf(req, memory + at, count);
}

static void do_write(fuse_req_t req, const char *data, size_t count, off_t at, struct fuse_file_info *fi)
{
    (void)fi;
    if ((size_t)at >= size) {
        fuse_reply_err(req, ENOSPC);
        return;
    }
    if (count > size - at)
        count = size - at;
    memcpy(memory + at, data, count);
    ready = 1;
    if (polling) {
        fuse_lowlevel_notify_poll(polling);
        fuse_pollhandle_destroy(polling);
        polling = NULL;
    }
    fuse_reply_write(req, count);
}

static void do_ioctl(fuse_req_t req, int cmd, void *arg, struct fuse_file_info *fi, unsigned flags, const void *in,
                     size_t in_size, size_t out_size)
{
    (void)fi, (void)flags, (void)in, (void)in_size;
    if ((unsigned)cmd != GET_COUNT) {
        fuse_reply_err(req, ENOTTY);
    } else if (!out_size) { // asked without the data at first: say what is to be copied where
        struct iovec out = {arg, sizeof opens};
        fuse_reply_ioctl_retry(req, NULL, 0, &out, 1);
    } else {
        fuse_reply_ioctl(req, 0, &opens, sizeof opens);
    }
}

static void do_poll(fuse_req_t req, struct fuse_file_info *fi, struct fuse_pollhandle *handle)
{
    (void)fi;
    if (handle) {
        if (polling)
            fuse_pollhandle_destroy(polling);
        polling = handle;
    }
    fuse_reply_poll(req, POLLOUT | (ready ? POLLIN : 0));
}

static const struct cuse_lowlevel_ops operations = {
    .open = do_open, .read = do_read, .write = do_write, .ioctl = do_ioctl, .poll = do_poll,
};

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: cuse NAME BYTES\n");
        return 2;
    }
    size = strtoull(argv[2], NULL, 10);
    memory = calloc(1, size);
    if (!memory) {
        perror("calloc");
        return 1;
    }
    char name[128];
    snprintf(name, sizeof name, "DEVNAME=%s", argv[1]);
    const char *info[] = {name};
    struct cuse_info device = {.dev_info_argc = 1, .dev_info_argv = info, .flags = CUSE_UNRESTRICTED_IOCTL};
    char *options[] = {argv[0], "-f", "-s"};
    return cuse_lowlevel_main(3, options, &device, &operations, NULL);
}
