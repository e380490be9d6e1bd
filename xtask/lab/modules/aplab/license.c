// SPDX-License-Identifier: GPL-2.0
/* ap_bus.c states no licence as long as it is built in. */
#include <linux/module.h>

MODULE_LICENSE("GPL");
