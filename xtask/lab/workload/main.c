// SPDX-License-Identifier: GPL-2.0
/*
 * workload - drives the genuine vfio_ap driver through its real interfaces, inside of the virtual s390x
 *
 * Guests are KVM guests with a mediated device, whose vCPUs execute PQAP; everything else is done with sysfs writes and
 * ioctls, as QEMU and administrators do. It needs the module ap_shim, root, and nothing else. Built with
 *
 *	s390x-linux-gnu-gcc -std=gnu11 -O2 -Wall -Wextra -Werror -static -pthread -o workload *.c
 *
 * Usage: workload COMMAND [OPTION...]
 *
 *	run		everything that the options name, at the same time (default: vCPUs only)
 *	serial		vCPUs, close and open, conversion to a protected guest: never two at once, --iterations rounds (10)
 *	deadlock	a vCPU in PQAP, a conversion and a close at the same time: hangs v5.10 and the designs with kvm_busy
 *	pile		--tasks tasks blocked on the driver's lock behind a reset, then --reads reads of the matrix by each
 *	reset		one reset of --reset-ms with vCPUs, writers and readers behind it
 *	setup, cleanup	create the mdevs with their matrix, and leave them; remove them
 *
 *	--vms N			guests, each with an mdev (1)
 *	--vcpus N		vCPUs of each (1)
 *	--writers N		threads that write all matrix attributes and ap_config, also with wrong values (0)
 *	--readers N		threads that read them (0)
 *	--resetters N		threads with VFIO_DEVICE_RESET (0)
 *	--rebind MS		close and open each device, that often; its vCPUs wait meanwhile
 *	--rebind-running	they do not wait: v5.10 may oops
 *	--replug APID		the adapter leaves for the host's drivers and returns (apmask)
 *	--replug-shim		it is deconfigured instead (ap_shim's deconf_apid, and a scan of the bus)
 *	--replug-pause MS	between leaving and returning (20)
 *	--churn N		threads that create and remove mdevs (0)
 *	--pv N			conversions: of each guest after a run (0), in each round of serial (1); ap_shim needs uv=1
 *	--group-late		the group is put into the VM after the device is open: until v5.18 that calls the notifier
 *	--group-first		the group is taken out of the VM before the device is closed: until v5.18 that calls the notifier
 *	--pqap LIST		the guest's loop, of aqic+ aqic- tapq rapq zapq qact (aqic+,tapq,aqic-)
 *	--loop N		rounds of it in one KVM_RUN (1; deadlock: 100000000)
 *	--reset-ms N		ap_shim's reset_ms during the run: resets that last (0; reset: 3000; pile: 10000, or until all
 *				tasks are blocked). 0 again at the end, which also ends resets that never would
 *	--op-us N		ap_shim's op_us: each AP instruction takes that long, under the driver's lock (0)
 *	--tasks N		of pile (200)
 *	--reads N		of each of them (3)
 *	--spinners N		threads that only compute (0; pile: 4)
 *	--settle MS		between the steps of deadlock, pile and reset (100)
 *
 *	--iterations N		operations of each thread (run: 100, unless there is another end; reset: 1)
 *	--duration MS		stop after that long (deadlock: how long to wait for the hang, 3000)
 *	--until FILE		stop when it is there
 *	--wait-for FILE		before the first operation, wait until it is there, or can be read if it is a FIFO
 *	--wait-after-setup	wait when guests are there and their devices open; what was done before is not counted
 *	--ready FILE		make it when the run has begun; for deadlock, pile and reset: when they stand there
 *	--truth FILE		write the ground truth
 *	--seed N		of values and their order (1)
 *	--keep			leave the mdevs there
 *	--adapters LIST, --domains LIST		what the machine has (5,6 and 4,0x47,0xab,0xff)
 *
 * Exit code: 0 finished; 1 a step failed; 2 wrong arguments; 3 tasks that do not come back. In the last case this process
 * ends and leaves them behind, in a child of it that stays. SIGTERM and SIGINT end a run as --until does. Without
 * --wait-for, and with --ready, the tracer can come second.
 *
 * Lines on stdout begin with "workload: ". deadlock prints "hung: monotonic_ns=N tasks=VCPU,PV,CLOSE": the first look at
 * which all three were in D (CLOCK_MONOTONIC; looked at every 2 ms), printed once they have stood so for 100 ms. pile
 * prints "piled: monotonic_ns=N tasks=N"; reset "reset: monotonic_ns=N" before the ioctl.
 *
 * The ground truth is one JSON object, counted in this program alone:
 *
 *	{ "schema": 1, "kernel_release", "scenario": COMMAND, "seed", "ended": "finished" | "stuck",
 *	  "entry_points": [ { "name", "calls", "in_flight", "returns": { "ok" | "-ENAME": n },
 *			      "pqap": { "AQIC": { "00": n } } } ],	names of docs/names.md; those called at least once
 *	  "writes": [ { "attribute", "value", "errno": "ok" | "-ENAME", "count" } ],	"create", "remove" of mdevs as well
 *	  "pqap": [ { "apqn": "05.0004", "function": "AQIC", "status": "0x…", "count" } ] }	register 1 as the guest saw it
 *
 * A pqap entry without a status is of rounds of --loop whose registers were overwritten by the next; these are in no entry
 * point either, so with --loop above 1 the counts of handle_pqap are not given. What it cannot know, and leaves out: locks;
 * calls that the kernel makes by itself (kvm_arch_crypto_set_masks and _clear_masks, probe and remove of queues, resets
 * inside of other functions, vfio_ap_mdev_resource_in_use, vfio_ap_on_cfg_changed, vfio_ap_on_scan_complete, iommu notifier
 * and dma_unmap, vfio_ap_mdev_request); reads and writes of others.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "workload.h"

struct shared *shared;
struct options opt = {
	.vms = 1, .vcpus = 1, .tasks = 200, .reads = 3, .spinners = -1, .loop = 0, .rebind_ms = -1, .replug_ms = 20,
	.pv_rounds = -1, .settle_ms = 100, .replug_adapter = -1, .seed = 1,
	.adapters = { 5, 6 }, .n_adapters = 2, .domains = { 4, 0x47, 0xab, 0xff }, .n_domains = 4,
	.ops = { { 3, true }, { 0, false }, { 3, false } }, .n_ops = 3,
};

static void print(FILE *f, const char *format, va_list args)
{
	char line[512];

	vsnprintf(line, sizeof(line), format, args);
	fprintf(f, "workload: %s\n", line);
	fflush(f);
}

void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print(stdout, format, args);
	va_end(args);
}

void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print(stderr, format, args);
	va_end(args);
	_exit(EXIT_FAILED);
}

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

void sleep_ms(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

bool stopping(void)
{
	return shared->stop;
}

bool kernel_before(int major, int minor)
{
	static int have_major, have_minor;

	if (!have_major) {
		struct utsname uts;
		int a = 0, b = 0;

		uname(&uts);
		if (sscanf(uts.release, "%d.%d", &a, &b) != 2)
			die("kernel release %s", uts.release);
		have_minor = b;
		have_major = a;
	}
	return have_major < major || (have_major == major && have_minor < minor);
}

/* splitmix64 */
uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

static void wait_for(const char *path)
{
	struct stat st;
	char byte;
	int fd;

	while (stat(path, &st)) {
		if (stopping())
			return;
		sleep_ms(10);
	}
	if (!S_ISFIFO(st.st_mode))
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, &byte, 1) < 0)
		die("%s: %m", path);
	close(fd);
}

/* Called before anything is done, and when guests are set up; it starts at one of the two. */
void start(bool set_up)
{
	if (shared->started || (opt.wait_after_setup && !set_up))
		return;
	if (opt.wait_for)
		wait_for(opt.wait_for);
	truth_forget();
	shared->started_ns = now_ns();
	shared->started = 1;
}

void tell_ready(void)
{
	int fd;

	if (!opt.ready)
		return;
	fd = open(opt.ready, O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
	if (fd < 0)
		die("%s: %m", opt.ready);
	close(fd);
}

static const struct {
	const char *name;
	int (*run)(void);
} commands[] = {
	{ "run", command_run }, { "serial", command_serial }, { "deadlock", command_deadlock }, { "pile", command_pile },
	{ "reset", command_reset }, { "setup", command_setup }, { "cleanup", command_cleanup },
};

#define N(a) ((int)(sizeof(a) / sizeof((a)[0])))

enum option_id {
	VMS = 256, VCPUS, WRITERS, READERS, RESETTERS, CHURN, SPINNERS, TASKS, READS, ITERATIONS, LOOP, DURATION, REBIND,
	REBIND_RUNNING, REPLUG, REPLUG_SHIM, REPLUG_PAUSE, PV, GROUP_LATE, GROUP_FIRST, PQAP, RESET_MS, OP_US, SETTLE, UNTIL, WAIT_FOR,
	WAIT_AFTER_SETUP, READY, TRUTH, SEED, KEEP, ADAPTERS, DOMAINS,
};

static const struct option options[] = {
	{ "vms", 1, NULL, VMS }, { "vcpus", 1, NULL, VCPUS }, { "writers", 1, NULL, WRITERS }, { "readers", 1, NULL, READERS },
	{ "resetters", 1, NULL, RESETTERS }, { "churn", 1, NULL, CHURN }, { "spinners", 1, NULL, SPINNERS },
	{ "tasks", 1, NULL, TASKS }, { "reads", 1, NULL, READS }, { "iterations", 1, NULL, ITERATIONS },
	{ "loop", 1, NULL, LOOP }, { "duration", 1, NULL, DURATION }, { "rebind", 1, NULL, REBIND },
	{ "rebind-running", 0, NULL, REBIND_RUNNING }, { "replug", 1, NULL, REPLUG }, { "replug-shim", 0, NULL, REPLUG_SHIM },
	{ "replug-pause", 1, NULL, REPLUG_PAUSE }, { "pv", 1, NULL, PV }, { "group-late", 0, NULL, GROUP_LATE },
	{ "group-first", 0, NULL, GROUP_FIRST }, { "pqap", 1, NULL, PQAP }, { "reset-ms", 1, NULL, RESET_MS },
	{ "op-us", 1, NULL, OP_US }, { "settle", 1, NULL, SETTLE },
	{ "until", 1, NULL, UNTIL }, { "wait-for", 1, NULL, WAIT_FOR }, { "wait-after-setup", 0, NULL, WAIT_AFTER_SETUP },
	{ "ready", 1, NULL, READY }, { "truth", 1, NULL, TRUTH }, { "seed", 1, NULL, SEED }, { "keep", 0, NULL, KEEP },
	{ "adapters", 1, NULL, ADAPTERS }, { "domains", 1, NULL, DOMAINS }, { NULL, 0, NULL, 0 },
};

static void usage(const char *what, const char *value)
{
	fprintf(stderr, "workload: %s %s\nusage: workload run|serial|deadlock|pile|reset|setup|cleanup [OPTION...]\n", what, value);
	exit(EXIT_USAGE);
}

static long number(const char *text, long min, long max)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(text, &end, 0);
	if (errno || end == text || *end || n < min || n > max)
		usage("not a number in range:", text);
	return n;
}

static int list(char *text, int values[], int max)
{
	char *item, *rest = NULL;
	int n = 0;

	for (item = strtok_r(text, ",", &rest); item; item = strtok_r(NULL, ",", &rest)) {
		if (n == max)
			usage("list too long:", text);
		values[n++] = number(item, 0, 255);
	}
	if (!n)
		usage("empty list", "");
	return n;
}

static void pqap_list(char *text)
{
	static const struct {
		const char *name;
		struct op op;
	} known[] = {
		{ "aqic+", { 3, true } }, { "aqic-", { 3, false } }, { "tapq", { 0, false } }, { "rapq", { 1, false } },
		{ "zapq", { 2, false } }, { "qact", { 5, false } },
	};
	char *item, *rest = NULL;
	int i;

	opt.n_ops = 0;
	for (item = strtok_r(text, ",", &rest); item; item = strtok_r(NULL, ",", &rest)) {
		for (i = 0; i < N(known) && strcmp(known[i].name, item); i++)
			;
		if (i == N(known) || opt.n_ops == MAX_OPS)
			usage("--pqap", item);
		opt.ops[opt.n_ops++] = known[i].op;
	}
	if (!opt.n_ops)
		usage("--pqap", "is empty");
}

static void set_option(int id)
{
	const long many = 1000000000000;

	switch (id) {
	case VMS: opt.vms = number(optarg, 1, MAX_VMS); break;
	case VCPUS: opt.vcpus = number(optarg, 0, MAX_VCPUS); break;
	case WRITERS: opt.writers = number(optarg, 0, 64); break;
	case READERS: opt.readers = number(optarg, 0, 64); break;
	case RESETTERS: opt.resetters = number(optarg, 0, 64); break;
	case CHURN: opt.churners = number(optarg, 0, 32); break;
	case SPINNERS: opt.spinners = number(optarg, 0, 64); break;
	case TASKS: opt.tasks = number(optarg, 1, MAX_ACTORS - 66); break;
	case READS: opt.reads = number(optarg, 1, many); break;
	case ITERATIONS: opt.iterations = number(optarg, 1, many); break;
	case LOOP: opt.loop = number(optarg, 1, many); break;
	case DURATION: opt.duration_ms = number(optarg, 1, many); break;
	case REBIND: opt.rebind_ms = number(optarg, 0, many); break;
	case REBIND_RUNNING: opt.rebind_running = true; break;
	case REPLUG: opt.replug_adapter = number(optarg, 0, 255); break;
	case REPLUG_SHIM: opt.replug_shim = true; break;
	case REPLUG_PAUSE: opt.replug_ms = number(optarg, 0, many); break;
	case PV: opt.pv_rounds = number(optarg, 0, many); break;
	case GROUP_LATE: opt.group_late = true; break;
	case GROUP_FIRST: opt.group_first = true; break;
	case PQAP: pqap_list(optarg); break;
	case RESET_MS: opt.reset_ms = number(optarg, 0, UINT32_MAX); break;
	case OP_US: opt.op_us = number(optarg, 0, 1000000); break;
	case SETTLE: opt.settle_ms = number(optarg, 0, many); break;
	case UNTIL: opt.until = optarg; break;
	case WAIT_FOR: opt.wait_for = optarg; break;
	case WAIT_AFTER_SETUP: opt.wait_after_setup = true; break;
	case READY: opt.ready = optarg; break;
	case TRUTH: opt.truth = optarg; break;
	case SEED: opt.seed = number(optarg, 0, INT64_MAX); break;
	case KEEP: opt.keep = true; break;
	case ADAPTERS: opt.n_adapters = list(optarg, opt.adapters, MAX_QUEUES); break;
	case DOMAINS: opt.n_domains = list(optarg, opt.domains, MAX_QUEUES); break;
	default: usage("see the top of main.c", "");
	}
}

/* Defaults that depend on the command. */
static void complete(void)
{
	bool run = !strcmp(opt.command, "run"), deadlock = !strcmp(opt.command, "deadlock");

	if (run && !opt.iterations && !opt.duration_ms && !opt.until)
		opt.iterations = 100;
	if (!opt.loop)
		opt.loop = deadlock ? 100000000 : 1;
	if (opt.spinners < 0)
		opt.spinners = strcmp(opt.command, "pile") ? 0 : 4;
	if (opt.pv_rounds < 0)
		opt.pv_rounds = strcmp(opt.command, "serial") ? 0 : 1;
	if (deadlock && !opt.vcpus)
		usage("deadlock needs", "--vcpus 1");
	if (!opt.reset_ms)
		opt.reset_ms = !strcmp(opt.command, "pile") ? 10000 : !strcmp(opt.command, "reset") ? 3000 : 0;
	if (opt.group_late && !kernel_before(5, 19))
		usage("--group-late needs", "a kernel before v5.19");
}

static void on_stop(int signal)
{
	(void)signal;
	shared->stop = 1;
}

/* Waits for the process that works, but not for one that hangs. */
static int supervise(pid_t child)
{
	struct sigaction action = { .sa_handler = on_stop };
	bool limited = opt.duration_ms && strcmp(opt.command, "deadlock");
	int status;

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	for (;;) {
		if (waitpid(child, &status, WNOHANG) == child)
			return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILED;
		if (shared->hung)
			return EXIT_HUNG;
		if (opt.until && !access(opt.until, F_OK))
			shared->stop = 1;
		if (limited && shared->started && now_ns() - shared->started_ns > opt.duration_ms * 1000000ULL)
			shared->stop = 1;
		sleep_ms(5);
	}
}

int main(int argc, char **argv)
{
	pid_t child;
	int id, i;

	if (argc < 2)
		usage("no", "command");
	opt.command = argv[1];
	for (i = 0; i < N(commands) && strcmp(commands[i].name, opt.command); i++)
		;
	if (i == N(commands))
		usage("unknown command", opt.command);
	optind = 2;
	while ((id = getopt_long(argc, argv, "", options, NULL)) != -1)
		set_option(id);
	if (optind != argc)
		usage("unexpected argument", argv[optind]);
	complete();
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		die("mmap: %m");
	child = fork();
	if (child < 0)
		die("fork: %m");
	if (child)
		return supervise(child);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	kicks_prepare();
	id = commands[i].run();
	/* The tasks that hang shall look like any others: their process stays. */
	while (id == EXIT_HUNG)
		pause();
	_exit(id);
}
