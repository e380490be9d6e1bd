// SPDX-License-Identifier: GPL-2.0
/*
 * Threads that do one kind of thing over and over, until they are told to stop or have done it often enough. Each
 * finishes what it is doing, so that every call that it made has returned and is counted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workload.h"

static struct actor actors[MAX_ACTORS];
static int n_actors;

static void *actor_main(void *arg)
{
	struct actor *actor = arg;
	char name[16];

	snprintf(name, sizeof(name), "%.10s/%d", actor->name, actor->number);
	pthread_setname_np(pthread_self(), name);
	actor->tid = gettid();
	actor->work(actor);
	actor->done = true;
	return NULL;
}

struct actor *actor_start(const char *name, void (*work)(struct actor *), struct vm *vm, struct vcpu *vcpu, int number)
{
	struct actor *actor;
	pthread_attr_t attr;
	int error;

	if (n_actors == MAX_ACTORS)
		die("more than %d threads", MAX_ACTORS);
	actor = &actors[n_actors++];
	*actor = (struct actor){ .name = name, .work = work, .vm = vm, .vcpu = vcpu, .number = number };
	actor->random = opt.seed * 0x9e3779b97f4a7c15ULL + n_actors;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 128 << 10);
	error = pthread_create(&actor->thread, &attr, actor_main, actor);
	if (error)
		die("thread %s: %s", name, strerror(error));
	return actor;
}

/* Waits for all threads. Returns how many are left after that time; these never come back. */
int actors_join(long ms)
{
	uint64_t end = now_ns() + ms * 1000000ULL;
	int left, i;

	for (;;) {
		for (left = i = 0; i < n_actors; i++)
			left += !actors[i].done;
		if (!left || now_ns() > end)
			break;
		sleep_ms(2);
	}
	if (!left) {
		for (i = 0; i < n_actors; i++)
			pthread_join(actors[i].thread, NULL);
		n_actors = 0;
	}
	return left;
}

/* State of a task, and how often it was switched: of /proc/PID/status, which takes no lock of a stuck process. */
static char task_state(int tid, unsigned long *switches)
{
	char path[64], line[128], state = '?';
	unsigned long n;
	FILE *f;

	*switches = 0;
	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	f = fopen(path, "r");
	if (!f)
		return state;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "State: %c", &state) == 1)
			continue;
		if (sscanf(line, "voluntary_ctxt_switches: %lu", &n) == 1 ||
		    sscanf(line, "nonvoluntary_ctxt_switches: %lu", &n) == 1)
			*switches += n;
	}
	fclose(f);
	return state;
}

/*
 * Waits until all of them are in D, and stay there without being switched for 100 ms. Returns 0 if that happens within
 * the time, and when the first look was that found it so.
 */
int actors_blocked(struct actor *const list[], int n, long ms, uint64_t *since_ns)
{
	uint64_t end = now_ns() + ms * 1000000ULL, since = 0;
	unsigned long before = 0;

	while (now_ns() < end && !stopping()) {
		uint64_t at = now_ns();
		unsigned long all = 0;
		bool blocked = true;
		int i;

		for (i = 0; i < n; i++) {
			unsigned long switches = 0;

			blocked = blocked && list[i]->tid && task_state(list[i]->tid, &switches) == 'D';
			all += switches;
		}
		if (!blocked || all != before)
			since = blocked ? at : 0;
		else if (!since)
			since = at;
		before = all;
		if (since && now_ns() - since > 100 * 1000000ULL) {
			*since_ns = since;
			return 0;
		}
		sleep_ms(2);
	}
	return -1;
}

void actor_print(const struct actor *actor)
{
	char path[64], wchan[64] = "?";
	unsigned long switches;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/wchan", actor->tid);
	f = fopen(path, "r");
	if (f) {
		if (!fgets(wchan, sizeof(wchan), f))
			wchan[0] = 0;
		fclose(f);
	}
	say("  %s/%d task %d state %c in %s", actor->name, actor->number, actor->tid, task_state(actor->tid, &switches), wchan);
}

static bool more(long done)
{
	return !stopping() && (!opt.iterations || done < opt.iterations);
}

void act_vcpu(struct actor *actor)
{
	long done;

	for (done = 0; more(done); done++) {
		pthread_rwlock_rdlock(&actor->vm->device_lock);
		vcpu_run(actor->vcpu, opt.loop);
		pthread_rwlock_unlock(&actor->vm->device_lock);
	}
}

/* Writes the configuration that is there, with one domain more or less (since v6.10). */
static void write_config(int mdev, uint64_t *random)
{
	char config[512], *digit;
	int word = 1;

	if (!mdev_has(mdev, "ap_config") || mdev_read(mdev, "ap_config", config, sizeof(config)))
		return;
	config[strcspn(config, "\n")] = 0;
	/* 0xADAPTERS,0xDOMAINS,0xCONTROL: bit 255 of the second is the lowest of its last digit. */
	for (digit = config; *digit && word; digit++)
		word -= *digit == ',';
	digit = strchr(digit, ',');
	if (digit && next_random(random) & 1)
		digit[-1] = digit[-1] == '0' ? '1' : '0';
	mdev_write(mdev, "ap_config", config);
}

/* All attributes, with values that work, that conflict, that do not exist and that are not numbers. */
void act_writer(struct actor *actor)
{
	static const char *const attributes[] = {
		"assign_adapter", "unassign_adapter", "assign_domain", "unassign_domain",
		"assign_control_domain", "unassign_control_domain",
	};
	int mdev = actor->number % opt.vms;
	long done;

	for (done = 0; more(done); done++) {
		uint64_t r = next_random(&actor->random);
		unsigned int which = r % 7;
		char value[16];

		if (which == 6) {
			write_config(mdev, &actor->random);
			continue;
		}
		switch (r >> 8 & 15) {
		case 0:
			snprintf(value, sizeof(value), "300");
			break;
		case 1:
			snprintf(value, sizeof(value), "zz");
			break;
		default:
			if (which < 2)
				snprintf(value, sizeof(value), "0x%02x", opt.adapters[(r >> 16) % opt.n_adapters]);
			else
				snprintf(value, sizeof(value), "0x%02x", opt.domains[(r >> 16) % opt.n_domains]);
		}
		mdev_write(mdev, attributes[which], value);
	}
}

void act_reader(struct actor *actor)
{
	static const char *const attributes[] = { "matrix", "control_domains", "guest_matrix", "ap_config" };
	char buf[4096];
	long done;

	for (done = 0; more(done); done++) {
		const char *attribute = attributes[next_random(&actor->random) % 4];

		if (mdev_has(actor->number % opt.vms, attribute))
			mdev_read(actor->number % opt.vms, attribute, buf, sizeof(buf));
	}
}

void act_resetter(struct actor *actor)
{
	long done;

	for (done = 0; more(done); done++) {
		pthread_rwlock_rdlock(&actor->vm->device_lock);
		vm_reset_device(actor->vm);
		pthread_rwlock_unlock(&actor->vm->device_lock);
		sleep_ms(5);
	}
}

/* Closes and opens the device, with the vCPUs outside of KVM_RUN: v5.10 may follow a hook that has just gone. */
void act_rebind(struct actor *actor)
{
	struct vm *vm = actor->vm;
	long done;

	for (done = 0; more(done); done++) {
		if (!opt.rebind_running)
			pthread_rwlock_wrlock(&vm->device_lock);
		vm_reopen_device(vm);
		if (!opt.rebind_running)
			pthread_rwlock_unlock(&vm->device_lock);
		sleep_ms(opt.rebind_ms);
	}
}

/* An adapter goes and comes back: to the host's drivers by apmask, or out of the machine's configuration. */
void act_replug(struct actor *actor)
{
	char value[16];
	long done;
	bool scans;

	(void)actor;
	scans = !access("/sys/bus/ap/scans", W_OK);
	for (done = 0; more(done); done++) {
		int back;

		for (back = 0; back < 2; back++) {
			if (opt.replug_shim) {
				shim_set("deconf_apid", back ? -1 : opt.replug_adapter);
				/* Before v6.x there is no scan on demand: config_time starts the timer anew, 5 s at least. */
				if (scans)
					bus_write("scans", "1");
				else
					bus_write("config_time", "5");
				sleep_ms(scans ? 0 : 5500);
			} else {
				snprintf(value, sizeof(value), "%c0x%x", back ? '-' : '+', opt.replug_adapter);
				bus_write("apmask", value);
			}
			sleep_ms(opt.replug_ms);
		}
	}
}

/* An mdev of its own: created, given a control domain, removed. */
void act_churn(struct actor *actor)
{
	int mdev = 0x40 + actor->number;
	char buf[4096];
	long done;

	for (done = 0; more(done); done++) {
		if (mdev_create(mdev))
			return;
		mdev_write(mdev, "assign_control_domain", "0x10");
		mdev_read(mdev, "matrix", buf, sizeof(buf));
		mdev_remove(mdev);
	}
}

/* Nothing but pressure on the scheduler. */
void act_spin(struct actor *actor)
{
	(void)actor;
	while (!stopping()) {
		volatile unsigned int n;

		for (n = 0; n < 20000; n++)
			;
		sched_yield();
	}
}
