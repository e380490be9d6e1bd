// SPDX-License-Identifier: GPL-2.0
/*
 * The sysfs side: mediated devices, their attributes, the AP bus and the shim's parameters. Each write is one call of a
 * store function, each read of an attribute one call of a show function (fs/kernfs/file.c); both are counted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workload.h"

#define MATRIX "/sys/devices/vfio_ap/matrix"

const char *mdev_uuid(int n)
{
	static __thread char uuid[40];

	snprintf(uuid, sizeof(uuid), "62177883-f1bb-47f0-914d-32a22e3a88%02x", (unsigned int)(4 + n) & 0xff);
	return uuid;
}

/* One write(2). Returns 0 or an errno. */
static int write_file(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), error = 0;
	ssize_t n;

	if (fd < 0)
		return errno;
	n = write(fd, value, strlen(value));
	if (n < 0)
		error = errno;
	close(fd);
	return error;
}

/* Stores are named after their attribute; a write that found no file has called none. */
static int counted_write(const char *path, const char *attribute, const char *value)
{
	char entry[64];
	int fd = open(path, O_WRONLY | O_CLOEXEC), error = 0;

	if (fd < 0)
		return errno;
	snprintf(entry, sizeof(entry), "%s_store", attribute);
	truth_call(entry);
	if (write(fd, value, strlen(value)) < 0)
		error = errno;
	errno = error;
	truth_return(entry, error ? -1 : 0);
	truth_write(attribute, value, error);
	close(fd);
	return error;
}

int mdev_write(int n, const char *attribute, const char *value)
{
	char path[256];

	snprintf(path, sizeof(path), MATRIX "/%s/%s", mdev_uuid(n), attribute);
	return counted_write(path, attribute, value);
}

bool mdev_has(int n, const char *attribute)
{
	char path[256];

	snprintf(path, sizeof(path), MATRIX "/%s/%s", mdev_uuid(n), attribute);
	return !access(path, F_OK);
}

/* Returns 0 or an errno; buf is a string. */
int mdev_read(int n, const char *attribute, char *buf, size_t size)
{
	char path[256], entry[64];
	int fd, error = 0;
	ssize_t got;

	snprintf(path, sizeof(path), MATRIX "/%s/%s", mdev_uuid(n), attribute);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	snprintf(entry, sizeof(entry), "%s_show", attribute);
	truth_call(entry);
	got = read(fd, buf, size - 1);
	if (got < 0)
		error = errno;
	truth_return(entry, got);
	buf[got < 0 ? 0 : got] = 0;
	close(fd);
	return error;
}

/*
 * mdev core refuses a UUID that exists before it calls the driver, so only what succeeds is counted as a call: create of
 * mdev_parent_ops until v5.14, then the probe function of an mdev_driver.
 */
int mdev_create(int n)
{
	const char *entry = kernel_before(5, 15) ? "vfio_ap_mdev_create" : "vfio_ap_mdev_probe";
	int error = write_file(MATRIX "/mdev_supported_types/vfio_ap-passthrough/create", mdev_uuid(n));

	truth_write("create", mdev_uuid(n), error);
	if (!error) {
		truth_call(entry);
		truth_return(entry, 0);
	}
	return error;
}

/* Not to be called while somebody has the device open: v5.10 goes on without the driver's consent, v6.x waits. */
int mdev_remove(int n)
{
	char path[256];
	int error;

	snprintf(path, sizeof(path), MATRIX "/%s/remove", mdev_uuid(n));
	error = write_file(path, "1");
	truth_write("remove", "1", error);
	if (!error) {
		truth_call("vfio_ap_mdev_remove");
		truth_return("vfio_ap_mdev_remove", 0);
	}
	return error;
}

/*
 * Queues of the nth mdev: an adapter of its own as long as there are some, with the first half of the domains; further
 * mdevs take the second half. What is left over is for writers to assign and take away.
 */
void mdev_queues(int n, int *adapter, int domains[], int *n_domains)
{
	int half = opt.n_domains / 2 ? opt.n_domains / 2 : 1;
	int first = n / opt.n_adapters * half, i;

	if (first + half > opt.n_domains)
		die("%d adapters with %d domains are not enough for mdev %d", opt.n_adapters, opt.n_domains, n);
	*adapter = opt.adapters[n % opt.n_adapters];
	*n_domains = half;
	for (i = 0; i < half; i++)
		domains[i] = opt.domains[first + i];
}

void mdev_setup(int n)
{
	int adapter, domains[MAX_QUEUES], n_domains, error, i;
	char value[16];

	error = mdev_create(n);
	if (error && error != EEXIST)
		die("mdev %s: %s", mdev_uuid(n), strerror(error));
	if (error)
		return;		/* left there by an earlier run with --keep */
	mdev_queues(n, &adapter, domains, &n_domains);
	snprintf(value, sizeof(value), "%d", adapter);
	error = mdev_write(n, "assign_adapter", value);
	if (error)
		die("assign_adapter %s: %s", value, strerror(error));
	for (i = 0; i < n_domains; i++) {
		snprintf(value, sizeof(value), "0x%02x", domains[i]);
		error = mdev_write(n, "assign_domain", value);
		if (error)
			die("assign_domain %s: %s", value, strerror(error));
	}
	error = mdev_write(n, "assign_control_domain", value);
	if (error)
		die("assign_control_domain %s: %s", value, strerror(error));
}

/* An attribute of the AP bus: apmask, aqmask, scans, config_time. */
int bus_write(const char *attribute, const char *value)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/bus/ap/%s", attribute);
	if (!strcmp(attribute, "apmask") || !strcmp(attribute, "aqmask"))
		return counted_write(path, attribute, value);
	return write_file(path, value);
}

/* Returns whether the shim has the parameter. */
bool shim_set(const char *parameter, long value)
{
	char path[96], text[24];

	snprintf(path, sizeof(path), "/sys/module/ap_shim/parameters/%s", parameter);
	snprintf(text, sizeof(text), "%ld", value);
	return !write_file(path, text);
}
