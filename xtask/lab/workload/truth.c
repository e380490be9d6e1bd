// SPDX-License-Identifier: GPL-2.0
/*
 * Ground truth: what this program did, counted where it did it. Knows of no probe and reads nothing of the kernel.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "workload.h"

enum kind { CALL, RETURN, WRITE, PQAP, PQAP_UNSEEN, RESPONSE };

/* A count under up to three words and a number; which of them are used depends on the kind. */
struct tally {
	enum kind kind;
	const char *name, *value;
	unsigned int apqn, fc;
	uint64_t status;
	unsigned long count;
};

#define MAX_TALLIES 4096

static struct tally tallies[MAX_TALLIES];
static int n_tallies;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static bool same(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static void count(struct tally what, unsigned long n)
{
	int i;

	pthread_mutex_lock(&lock);
	for (i = 0; i < n_tallies; i++) {
		struct tally *t = &tallies[i];

		if (t->kind == what.kind && same(t->name, what.name) && same(t->value, what.value) &&
		    t->apqn == what.apqn && t->fc == what.fc && t->status == what.status)
			break;
	}
	if (i == MAX_TALLIES)
		die("more than %d different operations", MAX_TALLIES);
	if (i == n_tallies) {
		if (what.name)
			what.name = strdup(what.name);
		if (what.value)
			what.value = strdup(what.value);
		what.count = 0;
		tallies[n_tallies++] = what;
	}
	tallies[i].count += n;
	pthread_mutex_unlock(&lock);
}

/* What was done before is not counted: nothing is in flight when this is called. */
void truth_forget(void)
{
	pthread_mutex_lock(&lock);
	n_tallies = 0;
	pthread_mutex_unlock(&lock);
}

void truth_call(const char *entry)
{
	count((struct tally){ .kind = CALL, .name = entry }, 1);
}

void truth_named_return(const char *entry, const char *name)
{
	count((struct tally){ .kind = RETURN, .name = entry, .value = name }, 1);
}

/* -1 means that errno has it, as after a system call; it is left as it is. */
void truth_return(const char *entry, long result)
{
	char name[32] = "ok";
	int error = errno;

	if (result < 0) {
		const char *known = strerrorname_np(error);

		if (known)
			snprintf(name, sizeof(name), "-%s", known);
		else
			snprintf(name, sizeof(name), "-%d", error);
	}
	truth_named_return(entry, name);
	errno = error;
}

void truth_write(const char *attribute, const char *value, int error)
{
	count((struct tally){ .kind = WRITE, .name = attribute, .value = value, .status = error }, 1);
}

static const char *function_name(unsigned int fc)
{
	static const char *const names[] = { "TAPQ", "RAPQ", "ZAPQ", "AQIC", "QCI", "QACT", "6", "BAPQ", "AAPQ" };
	static __thread char number[16];

	if (fc < sizeof(names) / sizeof(names[0]))
		return names[fc];
	snprintf(number, sizeof(number), "%u", fc);
	return number;
}

static void handler(const char *entry, unsigned int fc, unsigned int response, const char *result, unsigned long n)
{
	count((struct tally){ .kind = CALL, .name = entry }, n);
	count((struct tally){ .kind = RETURN, .name = entry, .value = result }, n);
	if (result[0] == 'o')
		count((struct tally){ .kind = RESPONSE, .name = entry, .fc = fc, .status = response }, n);
}

/*
 * A PQAP whose result the guest has seen. Function codes below AQIC are interpreted by SIE (ECA.APIE) and reach nobody.
 * kvm's handle_pqap() calls the driver's where a hook is set. Without one, it puts the status into the upper half of
 * general register 1 (v5.10 to 7.2, arch/s390/kvm/priv.c); the driver puts it into the lower half and clears the upper.
 */
void truth_pqap(unsigned int apqn, unsigned int fc, uint64_t gr1, bool to_user, unsigned long n)
{
	bool driver = !(gr1 >> 32);
	unsigned int response = (driver ? gr1 >> 16 : gr1 >> 48) & 0xff;

	count((struct tally){ .kind = PQAP, .apqn = apqn, .fc = fc, .status = gr1 }, n);
	if (fc < 3 || opt.loop > 1)
		return;
	handler("handle_pqap [kvm]", fc, response, to_user ? "-EOPNOTSUPP" : "ok", n);
	if (driver && !to_user)
		handler("handle_pqap", fc, response, "ok", n);
}

/* Those of a loop inside of the guest, of which only the last one's result is left in the registers. */
void truth_pqap_unseen(unsigned int apqn, unsigned int fc, unsigned long n)
{
	count((struct tally){ .kind = PQAP_UNSEEN, .apqn = apqn, .fc = fc }, n);
}

static unsigned long sum(enum kind kind, const char *name)
{
	unsigned long total = 0;
	int i;

	for (i = 0; i < n_tallies; i++)
		if (tallies[i].kind == kind && same(tallies[i].name, name))
			total += tallies[i].count;
	return total;
}

static void save_entry(FILE *f, const char *name)
{
	unsigned long calls = sum(CALL, name), returns = sum(RETURN, name);
	const char *comma = "";
	unsigned int fc;
	int i;

	fprintf(f, "    { \"name\": \"%s\", \"calls\": %lu, \"in_flight\": %lu, \"returns\": {", name, calls, calls - returns);
	for (i = 0; i < n_tallies; i++) {
		if (tallies[i].kind != RETURN || !same(tallies[i].name, name))
			continue;
		fprintf(f, "%s \"%s\": %lu", comma, tallies[i].value, tallies[i].count);
		comma = ",";
	}
	fprintf(f, " }");
	if (sum(RESPONSE, name)) {
		const char *between = "";

		fprintf(f, ", \"pqap\": {");
		for (fc = 0; fc < 256; fc++) {
			comma = "";
			for (i = 0; i < n_tallies; i++) {
				struct tally *t = &tallies[i];

				if (t->kind != RESPONSE || t->fc != fc || !same(t->name, name))
					continue;
				if (!*comma)
					fprintf(f, "%s \"%s\": {", between, function_name(fc));
				fprintf(f, "%s \"%02llx\": %lu", comma, (unsigned long long)t->status, t->count);
				comma = ",";
			}
			if (*comma) {
				fprintf(f, " }");
				between = ",";
			}
		}
		fprintf(f, " }");
	}
	fprintf(f, " }");
}

static void save_error(FILE *f, int error)
{
	if (error)
		fprintf(f, "\"-%s\"", strerrorname_np(error) ? strerrorname_np(error) : "other");
	else
		fprintf(f, "\"ok\"");
}

/* Returns 0, or -1 with errno. */
int truth_save(const char *path, const char *ended)
{
	const char *between = "";
	struct utsname uts;
	FILE *f;
	int i;

	if (!path)
		return 0;
	f = fopen(path, "w");
	if (!f)
		return -1;
	uname(&uts);
	pthread_mutex_lock(&lock);
	fprintf(f, "{ \"schema\": 1, \"kernel_release\": \"%s\", \"scenario\": \"%s\", \"seed\": %llu, \"ended\": \"%s\",\n",
		uts.release, opt.command, (unsigned long long)opt.seed, ended);
	fprintf(f, "  \"entry_points\": [");
	for (i = 0; i < n_tallies; i++) {
		if (tallies[i].kind != CALL)
			continue;
		fprintf(f, "%s\n", between);
		save_entry(f, tallies[i].name);
		between = ",";
	}
	fprintf(f, " ],\n  \"writes\": [");
	between = "";
	for (i = 0; i < n_tallies; i++) {
		if (tallies[i].kind != WRITE)
			continue;
		fprintf(f, "%s\n    { \"attribute\": \"%s\", \"value\": \"%s\", \"errno\": ", between, tallies[i].name, tallies[i].value);
		save_error(f, tallies[i].status);
		fprintf(f, ", \"count\": %lu }", tallies[i].count);
		between = ",";
	}
	fprintf(f, " ],\n  \"pqap\": [");
	between = "";
	for (i = 0; i < n_tallies; i++) {
		struct tally *t = &tallies[i];

		if (t->kind != PQAP && t->kind != PQAP_UNSEEN)
			continue;
		fprintf(f, "%s\n    { \"apqn\": \"%02x.%04x\", \"function\": \"%s\"", between, t->apqn >> 8, t->apqn & 0xff,
			function_name(t->fc));
		if (t->kind == PQAP)
			fprintf(f, ", \"status\": \"0x%016llx\"", (unsigned long long)t->status);
		fprintf(f, ", \"count\": %lu }", t->count);
		between = ",";
	}
	fprintf(f, " ] }\n");
	pthread_mutex_unlock(&lock);
	return fclose(f);
}
