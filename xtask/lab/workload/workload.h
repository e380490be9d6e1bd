/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of the workload share. main.c tells what the program is for, its command line and its files.
 */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_VMS		8
#define MAX_VCPUS	16
#define MAX_OPS		6
#define MAX_ACTORS	512
#define MAX_QUEUES	16

/* Exit codes. */
enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_HUNG = 3 };

/* One PQAP of the guest's loop. */
struct op {
	uint8_t fc;
	bool enable;		/* AQIC: set the interruption enablement bit */
};

struct options {
	const char *command;
	int vms, vcpus, writers, readers, resetters, churners, spinners, tasks;
	long iterations, loop, duration_ms, rebind_ms, replug_ms;
	long reset_ms, op_us, pv_rounds, reads, settle_ms;
	int replug_adapter;
	bool replug_shim, group_late, group_first, rebind_running, keep, wait_after_setup;
	uint64_t seed;
	const char *wait_for, *until, *ready, *truth;
	int adapters[MAX_QUEUES], n_adapters;
	int domains[MAX_QUEUES], n_domains;
	struct op ops[MAX_OPS];
	int n_ops;
};

extern struct options opt;

/* In memory that the supervising process shares with the one that works. */
struct shared {
	volatile int started, stop, hung;
	volatile uint64_t started_ns;
};

extern struct shared *shared;

/* main.c */
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ns(void);
void sleep_ms(long ms);
bool stopping(void);
bool kernel_before(int major, int minor);
void start(bool set_up);
void tell_ready(void);
uint64_t next_random(uint64_t *state);

/* truth.c */
void truth_forget(void);
void truth_call(const char *entry);
void truth_return(const char *entry, long result);
void truth_named_return(const char *entry, const char *name);
void truth_write(const char *attribute, const char *value, int error);
void truth_pqap(unsigned int apqn, unsigned int fc, uint64_t gr1, bool to_user, unsigned long count);
void truth_pqap_unseen(unsigned int apqn, unsigned int fc, unsigned long count);
int truth_save(const char *path, const char *ended);

/* mdev.c */
const char *mdev_uuid(int n);
int mdev_create(int n);
int mdev_remove(int n);
void mdev_queues(int n, int *adapter, int domains[], int *n_domains);
void mdev_setup(int n);
int mdev_write(int n, const char *attribute, const char *value);
int mdev_read(int n, const char *attribute, char *buf, size_t size);
bool mdev_has(int n, const char *attribute);
int bus_write(const char *attribute, const char *value);
bool shim_set(const char *parameter, long value);

/* guest.c */
struct vcpu {
	struct vm *vm;
	int id, fd;
	unsigned int apqn;
	struct kvm_run *run;
	bool abandoned;		/* its counts are not known */
};

struct vm {
	int mdev;
	int fd, kvm_vfio, container, group, device;
	uint8_t *memory;
	int n_vcpus;
	bool in_group;		/* the VM has the device's group */
	volatile int converting;	/* its vCPUs stay outside of KVM_RUN */
	struct vcpu vcpus[MAX_VCPUS];
	/* Held for reading by who uses the device or runs a vCPU, for writing by who closes and opens it. */
	pthread_rwlock_t device_lock;
};

void vm_create(struct vm *vm, int mdev, int vcpus);
void vm_destroy(struct vm *vm);
void vm_open_device(struct vm *vm);
void vm_close_device(struct vm *vm);
void vm_reopen_device(struct vm *vm);
int vm_reset_device(struct vm *vm);
int vm_pv(struct vm *vm, bool enable);
void vcpu_run(struct vcpu *vcpu, long loop);
void vcpu_kick(struct vcpu *vcpu, pthread_t thread);
void kicks_prepare(void);

/* actors.c */
struct actor {
	const char *name;
	void (*work)(struct actor *actor);
	struct vm *vm;
	struct vcpu *vcpu;
	int number;		/* among those that do the same */
	uint64_t random;
	pthread_t thread;
	volatile int tid;
	volatile bool done;
};

struct actor *actor_start(const char *name, void (*work)(struct actor *), struct vm *vm, struct vcpu *vcpu, int number);
int actors_join(long ms);
int actors_blocked(struct actor *const list[], int n, long ms, uint64_t *since_ns);
void actor_print(const struct actor *actor);
void act_vcpu(struct actor *actor);
void act_writer(struct actor *actor);
void act_reader(struct actor *actor);
void act_resetter(struct actor *actor);
void act_rebind(struct actor *actor);
void act_replug(struct actor *actor);
void act_churn(struct actor *actor);
void act_spin(struct actor *actor);

/* commands.c */
int command_setup(void);
int command_cleanup(void);
int command_run(void);
int command_serial(void);
int command_deadlock(void);
int command_pile(void);
int command_reset(void);

#endif
