// SPDX-License-Identifier: GPL-2.0
/*
 * What the sub-commands do; main.c says what each is for.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "workload.h"

/* How long threads may take to finish their operation: the longest reset of a test, and some seconds. */
#define JOIN_MS 15000

static struct vm vms[MAX_VMS];

static void set_up(void)
{
	int i;

	start(false);
	for (i = 0; i < opt.vms; i++)
		mdev_setup(i);
	for (i = 0; i < opt.vms; i++)
		vm_create(&vms[i], i, opt.vcpus);
	shim_set("op_us", opt.op_us);
	start(true);
}

static void tear_down(void)
{
	int i;

	shim_set("op_us", 0);
	for (i = 0; i < opt.vms; i++)
		vm_destroy(&vms[i]);
	if (opt.keep)
		return;
	for (i = 0; i < opt.vms; i++)
		mdev_remove(i);
}

/* The end of a run whose threads do not all come back: what they are in stays in flight in the truth. */
static int stuck(int left)
{
	say("%d tasks did not come back", left);
	if (truth_save(opt.truth, "stuck"))
		say("%s: %m", opt.truth);
	shared->hung = 1;
	return EXIT_HUNG;
}

static int finish(void)
{
	int left = actors_join(JOIN_MS);

	if (left)
		return stuck(left);
	tear_down();
	if (truth_save(opt.truth, "finished"))
		die("%s: %m", opt.truth);
	return EXIT_DONE;
}

static void wait_for_end(void)
{
	while (!stopping() && actors_join(20))
		;
	shared->stop = 1;
}

int command_setup(void)
{
	int i;

	start(false);
	for (i = 0; i < opt.vms; i++) {
		mdev_setup(i);
		say("%s", mdev_uuid(i));
	}
	return truth_save(opt.truth, "finished") ? EXIT_FAILED : EXIT_DONE;
}

int command_cleanup(void)
{
	int i, error, failed = 0;

	start(false);
	for (i = 0; i < opt.vms; i++) {
		error = mdev_remove(i);
		if (error && error != ENOENT) {
			say("remove %s: %s", mdev_uuid(i), strerror(error));
			failed = 1;
		}
	}
	return truth_save(opt.truth, "finished") || failed ? EXIT_FAILED : EXIT_DONE;
}

int command_run(void)
{
	int i, j, left;

	set_up();
	shim_set("reset_ms", opt.reset_ms);
	for (i = 0; i < opt.vms; i++) {
		for (j = 0; j < opt.vcpus; j++)
			actor_start("vcpu", act_vcpu, &vms[i], &vms[i].vcpus[j], i * opt.vcpus + j);
		if (opt.rebind_ms >= 0)
			actor_start("rebind", act_rebind, &vms[i], NULL, i);
	}
	for (i = 0; i < opt.writers; i++)
		actor_start("writer", act_writer, NULL, NULL, i);
	for (i = 0; i < opt.readers; i++)
		actor_start("reader", act_reader, NULL, NULL, i);
	for (i = 0; i < opt.resetters; i++)
		actor_start("resetter", act_resetter, &vms[i % opt.vms], NULL, i);
	for (i = 0; i < opt.churners; i++)
		actor_start("churn", act_churn, NULL, NULL, i);
	if (opt.replug_adapter >= 0)
		actor_start("replug", act_replug, NULL, NULL, 0);
	for (i = 0; i < opt.spinners; i++)
		actor_start("spin", act_spin, NULL, NULL, i);
	tell_ready();
	if (opt.iterations && opt.spinners)
		die("spinners have no iterations: give --duration or --until");
	wait_for_end();
	left = actors_join(JOIN_MS);
	if (left)
		return stuck(left);
	shim_set("reset_ms", 0);
	for (i = 0; i < opt.vms; i++) {
		for (j = 0; j < opt.pv_rounds; j++) {
			if (vm_pv(&vms[i], true) || vm_pv(&vms[i], false))
				die("KVM_S390_PV_COMMAND (ap_shim needs uv=1): %m");
		}
	}
	return finish();
}

static void act_close_open(struct actor *actor)
{
	vm_reopen_device(actor->vm);
}

static void act_convert(struct actor *actor)
{
	actor->vm->converting = 1;
	if (vm_pv(actor->vm, true) || vm_pv(actor->vm, false))
		die("KVM_S390_PV_COMMAND (ap_shim needs uv=1): %m");
	actor->vm->converting = 0;
}

static void act_run_once(struct actor *actor)
{
	vcpu_run(actor->vcpu, opt.loop);
}

/* One thread at a time. */
static int alone(const char *name, void (*work)(struct actor *), struct vm *vm, struct vcpu *vcpu)
{
	actor_start(name, work, vm, vcpu, 0);
	return actors_join(JOIN_MS);
}

int command_serial(void)
{
	long round, rounds = opt.iterations ? opt.iterations : 10;
	int i, j, left = 0;

	set_up();
	tell_ready();
	for (round = 0; round < rounds && !stopping() && !left; round++) {
		for (i = 0; i < opt.vms && !left; i++) {
			for (j = 0; j < opt.vcpus && !left; j++)
				left = alone("vcpu", act_run_once, &vms[i], &vms[i].vcpus[j]);
			if (!left)
				left = alone("close", act_close_open, &vms[i], NULL);
			for (j = 0; j < opt.pv_rounds && !left; j++)
				left = alone("pv", act_convert, &vms[i], NULL);
		}
	}
	return left ? stuck(left) : finish();
}

static void act_close(struct actor *actor)
{
	vm_close_device(actor->vm);
}

/*
 * A vCPU in PQAP has vcpu->mutex; the conversion takes kvm->lock and waits for it; closing the device takes the driver's
 * lock (v5.10) or sets kvm_busy (v5.13), and waits for kvm->lock; the vCPU's next PQAP waits for that.
 */
int command_deadlock(void)
{
	struct actor *tasks[3];
	uint64_t since;
	int i;

	if (!opt.iterations)
		opt.iterations = 1;
	set_up();
	tasks[0] = actor_start("vcpu", act_run_once, &vms[0], &vms[0].vcpus[0], 0);
	sleep_ms(opt.settle_ms);
	tasks[1] = actor_start("pv", act_convert, &vms[0], NULL, 0);
	if (actors_blocked(&tasks[1], 1, 3000, &since))
		say("the conversion does not wait");
	tasks[2] = actor_start("close", act_close, &vms[0], NULL, 0);
	if (!actors_blocked(tasks, 3, opt.duration_ms ? opt.duration_ms : 3000, &since)) {
		say("hung: monotonic_ns=%llu tasks=%d,%d,%d", (unsigned long long)since, tasks[0]->tid, tasks[1]->tid, tasks[2]->tid);
		for (i = 0; i < 3; i++)
			actor_print(tasks[i]);
		tell_ready();
		return stuck(3);
	}
	say("no deadlock");
	for (i = 0; i < 100 && !tasks[0]->done; i++) {
		vcpu_kick(&vms[0].vcpus[0], tasks[0]->thread);
		sleep_ms(100);
	}
	return finish();
}

/* A device that is reset again and again, until everybody else is through. */
static volatile bool reset_more;

static void act_hold(struct actor *actor)
{
	while (reset_more) {
		vm_reset_device(actor->vm);
		sleep_ms(1);
	}
}

static void act_read_matrix(struct actor *actor)
{
	char buf[4096];
	long i;

	for (i = 0; i < opt.reads; i++)
		mdev_read(actor->number % opt.vms, "matrix", buf, sizeof(buf));
}

int command_pile(void)
{
	static struct actor *tasks[MAX_ACTORS];
	uint64_t since;
	int i, n, left;

	set_up();
	shim_set("reset_ms", opt.reset_ms);
	reset_more = true;
	actor_start("hold", act_hold, &vms[0], NULL, 0);
	sleep_ms(opt.settle_ms);
	for (i = 0; i < opt.tasks; i++)
		tasks[i] = actor_start("pile", act_read_matrix, NULL, NULL, i);
	for (i = 0; i < opt.spinners; i++)
		actor_start("spin", act_spin, NULL, NULL, i);
	if (!actors_blocked(tasks, opt.tasks, opt.reset_ms, &since))
		say("piled: monotonic_ns=%llu tasks=%d", (unsigned long long)since, opt.tasks);
	else
		say("not all of %d tasks were blocked at once", opt.tasks);
	tell_ready();
	shim_set("reset_ms", 0);
	for (left = 1; left && !stopping();) {
		for (left = i = 0; i < opt.tasks; i++)
			left += !tasks[i]->done;
		sleep_ms(5);
	}
	reset_more = false;
	shared->stop = 1;
	n = actors_join(JOIN_MS);
	return n ? stuck(n) : finish();
}

static void act_reset_once(struct actor *actor)
{
	vm_reset_device(actor->vm);
}

int command_reset(void)
{
	struct actor *reset;
	uint64_t since;
	int i, left;

	if (!opt.iterations)
		opt.iterations = 1;
	set_up();
	shim_set("reset_ms", opt.reset_ms);
	say("reset: monotonic_ns=%llu", (unsigned long long)now_ns());
	reset = actor_start("reset", act_reset_once, &vms[0], NULL, 0);
	/* Who comes earlier does not have to wait. */
	if (!actors_blocked(&reset, 1, 30000, &since))
		say("resetting: monotonic_ns=%llu task=%d", (unsigned long long)since, reset->tid);
	for (i = 0; i < opt.vcpus; i++)
		actor_start("vcpu", act_vcpu, &vms[0], &vms[0].vcpus[i], i);
	for (i = 0; i < opt.writers; i++)
		actor_start("writer", act_writer, NULL, NULL, i);
	for (i = 0; i < opt.readers; i++)
		actor_start("reader", act_reader, NULL, NULL, i);
	tell_ready();
	wait_for_end();
	shim_set("reset_ms", 0);
	left = actors_join(JOIN_MS);
	return left ? stuck(left) : finish();
}
