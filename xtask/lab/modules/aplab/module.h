/* SPDX-License-Identifier: GPL-2.0 */
/* ap_bus.c is built in until v6.11, and does not include what a module needs (v5.10: device_initcall()). */
#include <linux/module.h>
#undef pr_fmt
