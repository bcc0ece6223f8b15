// SPDX-License-Identifier: GPL-2.0-only
/*
 * mapdev: character devices and /proc files whose operations are answered by a program.
 *
 * uapi/mapdev.h is the contract with programs, mapdev.h says which objects there are, who holds
 * them, and which lock comes before which. Every object that a program can still reach holds the
 * module, through the owner of its file's operations, and a persistent device does by itself:
 * while anything exists rmmod answers that it is in use.
 */
#include <linux/dma-mapping.h>
#include <linux/miscdevice.h>
#include <linux/module.h>

#include "mapdev.h"

#ifndef CONFIG_64BIT
#error mapdev needs a 64-bit kernel: offsets that name a memory and a page do not fit in 32 bits
#endif

unsigned long mapdev_max_bytes;
module_param_named(max_bytes, mapdev_max_bytes, ulong, 0444);
MODULE_PARM_DESC(max_bytes,
		 "Most kernel memory of all devices. Default: a quarter of the machine's.");

unsigned int mapdev_max_requests = 1024;
module_param_named(max_requests, mapdev_max_requests, uint, 0444);
MODULE_PARM_DESC(max_requests, "Most requests of one device at once; more wait. Default 1024.");

unsigned int mapdev_max_notices = 65536;
module_param_named(max_notices, mapdev_max_notices, uint, 0444);
MODULE_PARM_DESC(max_notices,
		 "With that many notices unread, new areas are not told of. Default 65536.");

static struct miscdevice mapdev_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "mapdev",
	.mode = 0660,
	.fops = &mapdev_control_fops,
};

static bool mapdev_dma;

/*
 * The device that coherent memory is allocated for: one that can reach all memory. NULL if there
 * cannot be one.
 */
struct device *mapdev_dma_device(void)
{
	return mapdev_dma ? mapdev_misc.this_device : NULL;
}

static int __init mapdev_init(void)
{
	int error;

	if (!mapdev_max_bytes)
		mapdev_max_bytes = totalram_pages() / 4 << PAGE_SHIFT;
	error = mapdev_devices_init();
	if (error)
		return error;
	error = misc_register(&mapdev_misc);
	if (error) {
		mapdev_devices_exit();
		return error;
	}
	mapdev_dma = !dma_coerce_mask_and_coherent(mapdev_misc.this_device, DMA_BIT_MASK(64));
	return 0;
}

static void __exit mapdev_exit(void)
{
	misc_deregister(&mapdev_misc);
	mapdev_devices_exit();
}

module_init(mapdev_init);
module_exit(mapdev_exit);

MODULE_DESCRIPTION("Devices whose operations are answered by a program");
MODULE_LICENSE("GPL");
MODULE_VERSION(MAPDEV_PACKAGE_VERSION);
