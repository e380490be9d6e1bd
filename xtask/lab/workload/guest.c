// SPDX-License-Identifier: GPL-2.0
/*
 * A guest: a VM with its vCPUs, a mediated device, and machine code that executes PQAP and nothing else. The code is made
 * of instructions that the shim's SIE knows. PQAP goes the real way from there: interception, kvm, the hook, the driver.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/kvm.h>
#include <linux/vfio.h>

#include "workload.h"

#define MIB		(1UL << 20)
#define MEMORY		(4 * MIB)
#define CODE(id)	(0x10000U + (id) * 0x1000U)
#define NIB(id)		(0x100000U + (id) * 0x1000U)	/* notification indicator byte of AQIC */

/* General registers of the guest's code: the loop's counter, and what each PQAP left in register 1. */
#define GR_LOOP		7
#define GR_RESULT	8

static const char *open_entry(void)
{
	return kernel_before(5, 15) ? "vfio_ap_mdev_open" : "vfio_ap_mdev_open_device";
}

static const char *close_entry(void)
{
	return kernel_before(5, 15) ? "vfio_ap_mdev_release" : "vfio_ap_mdev_close_device";
}

struct code {
	uint8_t *at;
	unsigned int n;
};

static void emit(struct code *c, const void *bytes, unsigned int n)
{
	memcpy(c->at + c->n, bytes, n);
	c->n += n;
}

#define EMIT(c, ...) emit((c), (uint8_t[]){ __VA_ARGS__ }, sizeof((uint8_t[]){ __VA_ARGS__ }))
#define WORD(x) (uint8_t)((x) >> 24), (uint8_t)((x) >> 16), (uint8_t)((x) >> 8), (uint8_t)(x)

/* Executes all operations gr7 times, then leaves to user space. */
static void write_code(struct vcpu *vcpu)
{
	struct code c = { .at = vcpu->vm->memory + CODE(vcpu->id) };
	int i, back;

	for (i = 0; i < opt.n_ops; i++) {
		const struct op *op = &opt.ops[i];

		EMIT(&c, 0xc0, 0x0f, WORD((uint32_t)op->fc << 24 | vcpu->apqn));	/* llilf r0,fc|apqn */
		if (op->enable) {
			EMIT(&c, 0xc0, 0x1e, WORD(0x00008000U));		/* llihf r1,IR */
			EMIT(&c, 0xa7, 0x1b, 0, (uint8_t)(1 + vcpu->id % 7));	/* aghi r1,isc */
		} else {
			EMIT(&c, 0xa7, 0x19, 0, 0);				/* lghi r1,0 */
		}
		EMIT(&c, 0xc0, 0x2f, WORD(op->enable ? NIB(vcpu->id) : 0));	/* llilf r2,nib */
		EMIT(&c, 0xb2, 0xaf, 0, 0);					/* pqap */
		EMIT(&c, 0xb9, 0x04, 0, (uint8_t)((GR_RESULT + i) << 4 | 1));	/* lgr r8+i,r1 */
	}
	back = -(int)c.n / 2;
	EMIT(&c, 0xa7, GR_LOOP << 4 | 7, (uint8_t)(back >> 8), (uint8_t)back);	/* brctg r7,start */
	EMIT(&c, 0x83, 0x00, 0x05, 0x01);					/* diag 0x501 */
}

static int vm_attr(struct vm *vm, unsigned long request, uint32_t group, uint64_t attr, void *addr)
{
	struct kvm_device_attr a = { .group = group, .attr = attr, .addr = (unsigned long)addr };

	return ioctl(vm->fd, request, &a);
}

/* The CPU model with all facilities that the machine has, and interpretation of AP instructions. */
static void set_model(struct vm *vm)
{
	struct kvm_s390_vm_cpu_processor processor;
	struct kvm_s390_vm_cpu_machine machine;

	if (vm_attr(vm, KVM_GET_DEVICE_ATTR, KVM_S390_VM_CPU_MODEL, KVM_S390_VM_CPU_MACHINE, &machine))
		die("get KVM_S390_VM_CPU_MACHINE: %m");
	if (vm_attr(vm, KVM_GET_DEVICE_ATTR, KVM_S390_VM_CPU_MODEL, KVM_S390_VM_CPU_PROCESSOR, &processor))
		die("get KVM_S390_VM_CPU_PROCESSOR: %m");
	memcpy(processor.fac_list, machine.fac_mask, sizeof(processor.fac_list));
	if (vm_attr(vm, KVM_SET_DEVICE_ATTR, KVM_S390_VM_CPU_MODEL, KVM_S390_VM_CPU_PROCESSOR, &processor))
		die("set KVM_S390_VM_CPU_PROCESSOR: %m");
	if (vm_attr(vm, KVM_SET_DEVICE_ATTR, KVM_S390_VM_CRYPTO, KVM_S390_VM_CRYPTO_ENABLE_APIE, NULL))
		die("KVM_S390_VM_CRYPTO_ENABLE_APIE: %m");
}

static void add_vcpu(struct vm *vm, int kvm, int id)
{
	struct vcpu *vcpu = &vm->vcpus[id];
	int adapter, domains[MAX_QUEUES], n_domains;

	mdev_queues(vm->mdev, &adapter, domains, &n_domains);
	*vcpu = (struct vcpu){ .vm = vm, .id = id, .apqn = adapter << 8 | domains[id % n_domains] };
	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, id);
	if (vcpu->fd < 0)
		die("KVM_CREATE_VCPU %d: %m", id);
	vcpu->run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		die("mmap of vCPU %d: %m", id);
	write_code(vcpu);
}

static void open_group(struct vm *vm)
{
	char path[256], link[256];
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/iommu_group", mdev_uuid(vm->mdev));
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		die("%s: %m", path);
	link[n] = 0;
	snprintf(path, sizeof(path), "/dev/vfio/%s", strrchr(link, '/') + 1);
	vm->container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	vm->group = open(path, O_RDWR | O_CLOEXEC);
	if (vm->container < 0 || vm->group < 0)
		die("%s: %m", path);
	if (ioctl(vm->group, VFIO_GROUP_SET_CONTAINER, &vm->container))
		die("VFIO_GROUP_SET_CONTAINER: %m");
	if (ioctl(vm->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		die("VFIO_SET_IOMMU: %m");
}

/* Puts the group into the VM, or takes it out; with an open device, that calls the group notifier until v5.18. */
static void set_group(struct vm *vm, bool add)
{
	struct kvm_device_attr a = {
		.group = KVM_DEV_VFIO_GROUP,
		.attr = add ? KVM_DEV_VFIO_GROUP_ADD : KVM_DEV_VFIO_GROUP_DEL,
		.addr = (unsigned long)&vm->group,
	};
	int rc;

	truth_call("kvm_vfio_set_attr");
	if (vm->device >= 0 && kernel_before(5, 19))
		truth_call("vfio_ap_mdev_group_notifier");
	rc = ioctl(vm->kvm_vfio, KVM_SET_DEVICE_ATTR, &a);
	vm->in_group = add;
	truth_return("kvm_vfio_set_attr", rc);
	if (rc)
		die("KVM_DEV_VFIO_GROUP_%s: %m", add ? "ADD" : "DEL");
	if (vm->device >= 0 && kernel_before(5, 19))
		truth_named_return("vfio_ap_mdev_group_notifier", "NOTIFY_OK");
}

void vm_create(struct vm *vm, int mdev, int vcpus)
{
	struct kvm_create_device device = { .type = KVM_DEV_TYPE_VFIO };
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY };
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.size = MEMORY,
	};
	pthread_rwlockattr_t attr;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), i;

	if (kvm < 0)
		die("/dev/kvm: %m");
	*vm = (struct vm){ .mdev = mdev, .device = -1, .n_vcpus = vcpus };
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&vm->device_lock, &attr);
	vm->fd = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		die("KVM_CREATE_VM: %m");
	set_model(vm);
	/* Aligned as a gmap segment is, and touched: the shim's SIE cannot wait for a page. */
	vm->memory = mmap(NULL, MEMORY + MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vm->memory == MAP_FAILED)
		die("memory of a guest: %m");
	vm->memory = (uint8_t *)(((uintptr_t)vm->memory + MIB - 1) & ~(MIB - 1));
	memset(vm->memory, 0, MEMORY);
	region.userspace_addr = (uintptr_t)vm->memory;
	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region))
		die("KVM_SET_USER_MEMORY_REGION: %m");
	for (i = 0; i < vcpus; i++)
		add_vcpu(vm, kvm, i);
	close(kvm);
	open_group(vm);
	map.vaddr = (uintptr_t)vm->memory;
	if (ioctl(vm->container, VFIO_IOMMU_MAP_DMA, &map))
		die("VFIO_IOMMU_MAP_DMA: %m");
	if (ioctl(vm->fd, KVM_CREATE_DEVICE, &device))
		die("KVM_CREATE_DEVICE vfio: %m");
	vm->kvm_vfio = device.fd;
	if (!opt.group_late)
		set_group(vm, true);
	vm_open_device(vm);
	if (opt.group_late)
		set_group(vm, true);
}

/* Until v5.18, opening the device replays the group notifier where the group has a VM (vfio_register_notifier()). */
void vm_open_device(struct vm *vm)
{
	bool replay = kernel_before(5, 19) && vm->in_group;
	struct vfio_device_info info = { .argsz = sizeof(info) };
	int rc;

	truth_call(open_entry());
	if (replay)
		truth_call("vfio_ap_mdev_group_notifier");
	vm->device = ioctl(vm->group, VFIO_GROUP_GET_DEVICE_FD, mdev_uuid(vm->mdev));
	truth_return(open_entry(), vm->device);
	if (vm->device < 0)
		die("VFIO_GROUP_GET_DEVICE_FD: %m");
	if (replay)
		truth_named_return("vfio_ap_mdev_group_notifier", "NOTIFY_OK");
	truth_call("vfio_ap_mdev_ioctl");
	rc = ioctl(vm->device, VFIO_DEVICE_GET_INFO, &info);
	truth_return("vfio_ap_mdev_ioctl", rc);
	if (rc)
		die("VFIO_DEVICE_GET_INFO: %m");
}

void vm_close_device(struct vm *vm)
{
	int device = vm->device;

	if (opt.group_first)
		set_group(vm, false);
	truth_call(close_entry());
	vm->device = -1;
	close(device);
	truth_return(close_entry(), 0);
}

void vm_reopen_device(struct vm *vm)
{
	vm_close_device(vm);
	if (opt.group_first)
		set_group(vm, true);
	vm_open_device(vm);
}

int vm_reset_device(struct vm *vm)
{
	int rc;

	truth_call("vfio_ap_mdev_ioctl");
	rc = ioctl(vm->device, VFIO_DEVICE_RESET, 0);
	truth_return("vfio_ap_mdev_ioctl", rc);
	return rc;
}

/* Converts the guest to a protected one, or back (the shim's option uv=1). Returns 0, or -1 with errno. */
int vm_pv(struct vm *vm, bool enable)
{
	struct kvm_pv_cmd cmd = { .cmd = enable ? KVM_PV_ENABLE : KVM_PV_DISABLE };
	int rc;

	truth_call("kvm_s390_handle_pv");
	rc = ioctl(vm->fd, KVM_S390_PV_COMMAND, &cmd);
	truth_return("kvm_s390_handle_pv", rc);
	return rc;
}

void vm_destroy(struct vm *vm)
{
	int i;

	if (vm->device >= 0)
		vm_close_device(vm);
	if (!opt.group_first)
		set_group(vm, false);
	for (i = 0; i < vm->n_vcpus; i++)
		close(vm->vcpus[i].fd);
	close(vm->kvm_vfio);
	close(vm->group);
	close(vm->container);
	close(vm->fd);
	pthread_rwlock_destroy(&vm->device_lock);
}

static void on_kick(int signal)
{
	(void)signal;
}

void kicks_prepare(void)
{
	struct sigaction action = { .sa_handler = on_kick };

	sigaction(SIGUSR1, &action, NULL);
}

/* Makes a vCPU leave KVM_RUN, and go on to the end of the iteration that it is in. */
void vcpu_kick(struct vcpu *vcpu, pthread_t thread)
{
	vcpu->run->immediate_exit = 1;
	pthread_kill(thread, SIGUSR1);
}

static int run_once(struct vcpu *vcpu)
{
	int rc;

	truth_call("kvm_vcpu_ioctl");
	rc = ioctl(vcpu->fd, KVM_RUN, 0);
	truth_return("kvm_vcpu_ioctl", rc);
	return rc;
}

static void count_results(const struct vcpu *vcpu, unsigned long rounds, unsigned int to_user)
{
	const __u64 *gr = vcpu->run->s.regs.gprs;
	int i;

	for (i = 0; i < opt.n_ops; i++) {
		truth_pqap(vcpu->apqn, opt.ops[i].fc, gr[GR_RESULT + i], to_user >> i & 1, 1);
		if (rounds > 1)
			truth_pqap_unseen(vcpu->apqn, opt.ops[i].fc, rounds - 1);
	}
}

/*
 * Executes the loop that many times. A PQAP that comes to user space (a function that kvm does not handle) gets the
 * status "queue not available". When kicked, the loop's counter is set to 1: the iteration ends, and all counts are exact.
 */
void vcpu_run(struct vcpu *vcpu, long loop)
{
	struct kvm_run *run = vcpu->run;
	unsigned long rounds = loop;
	unsigned int to_user = 0;

	run->psw_mask = 0x0000000180000000UL;
	run->psw_addr = CODE(vcpu->id);
	run->s.regs.gprs[GR_LOOP] = loop;
	run->kvm_dirty_regs = KVM_SYNC_GPRS;
	for (;;) {
		unsigned int ipa;

		if (run_once(vcpu)) {
			if (errno != EINTR)
				die("KVM_RUN: %m");
			if (run->immediate_exit) {
				run->immediate_exit = 0;
				while (vcpu->vm->converting)
					sleep_ms(1);
				rounds -= run->s.regs.gprs[GR_LOOP] - 1;
				run->s.regs.gprs[GR_LOOP] = 1;
				run->kvm_dirty_regs = KVM_SYNC_GPRS;
			}
			continue;
		}
		ipa = run->s390_sieic.ipa;
		if (run->exit_reason != KVM_EXIT_S390_SIEIC || run->s390_sieic.icptcode != 4)
			die("vCPU %d: exit %u, interception %u, PSW %llx", vcpu->id, run->exit_reason, run->s390_sieic.icptcode,
			    (unsigned long long)run->psw_addr);
		if (ipa >> 8 == 0x83) {
			count_results(vcpu, rounds, to_user);
			return;
		}
		if (ipa != 0xb2af)
			die("vCPU %d: instruction %04x", vcpu->id, ipa);
		for (int i = 0; i < opt.n_ops; i++)
			if (opt.ops[i].fc == (run->s.regs.gprs[0] >> 24 & 0xff))
				to_user |= 1U << i;
		run->s.regs.gprs[1] = 0x010000;
		run->kvm_dirty_regs = KVM_SYNC_GPRS;
	}
}
