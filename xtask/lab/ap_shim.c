// SPDX-License-Identifier: GPL-2.0
/*
 * ap_shim - what the genuine s390 AP bus, kvm and vfio_ap need, on a machine
 * that has neither AP instructions nor SIE: QEMU's software emulation (TCG).
 *
 *  - PQAP, NQAP and DQAP raise an operation exception there. Before
 *    illegal_op() (arch/s390/kernel/traps.c) gives up on an exception of the
 *    kernel, it calls the die notifiers with DIE_BPT, in v5.10 as in v7.2. A
 *    notifier can therefore execute the instruction, with queues that this
 *    module keeps.
 *  - kvm asks for facilities, for SIEF2 and for the adapter interruption
 *    virtualization of the channel subsystem: variables of the kernel that
 *    are set here and put back at the end. CHSC "set GIB" is made to succeed.
 *  - SIE raises an operation exception too, which kvm survives. Guest code is
 *    interpreted afterwards: a handful of instructions, AP interpretation by
 *    the guest's APCB, and interceptions for AQIC, DIAGNOSE and whatever is
 *    not known. From there on kvm and the driver do what they always do.
 *  - With uv=1, ultravisor calls succeed and do nothing, so that a guest can
 *    be converted to a protected one as far as locks are concerned.
 *
 * Test equipment only: nothing here protects anything.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/kdebug.h>
#include <linux/kprobes.h>
#include <linux/ktime.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/tracepoint.h>
#include <linux/version.h>
#include <asm/ap.h>
#include <asm/css_chars.h>
#include <asm/facility.h>
#include <asm/ptrace.h>
#include <asm/sclp.h>
#include <asm/uv.h>

/* v5.14 made the list of facilities a variable; before, each CPU has its own. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 14, 0)
#include <asm/lowcore.h>
#define FACILITIES	((void *)S390_lowcore.stfle_fac_list)
#else
#define FACILITIES	((void *)stfle_fac_list)
#endif

/* v5.17 renamed it and added an argument. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 17, 0)
#define gfn_slot(slots, gfn)	__gfn_to_memslot(slots, gfn)
#else
#define gfn_slot(slots, gfn)	____gfn_to_memslot(slots, gfn, false)
#endif

/* Operation codes, of the first two bytes. */
#define OP_NQAP			0xb2ad
#define OP_DQAP			0xb2ae
#define OP_PQAP			0xb2af
#define OP_PCKMO		0xb928
#define OP_UVC			0xb9a4
#define OP_PLO			0xee	/* the first byte alone */

/* Function codes of PQAP. */
#define FC_TAPQ			0
#define FC_RAPQ			1
#define FC_ZAPQ			2
#define FC_AQIC			3
#define FC_QCI			4
#define FC_QACT			5

/* Response codes, as in drivers/s390/crypto/ap_bus.h. */
#define RC_NORMAL		0x00
#define RC_Q_NOT_AVAIL		0x01
#define RC_RESET_IN_PROGRESS	0x02
#define RC_DECONFIGURED		0x03
#define RC_BUSY			0x05
#define RC_OTHERWISE_CHANGED	0x07
#define RC_Q_FULL		0x10
#define RC_NO_PENDING_REPLY	0x10

/* Bits of the status word. */
#define STATUS_EMPTY		0x80000000U
#define STATUS_REPLIES		0x40000000U
#define STATUS_FULL		0x20000000U
#define STATUS_IRQ		0x01000000U

#define AQIC_IR			BIT_ULL(47)	/* of general register 1 */
#define PLO_TEST		0x100UL		/* of general register 0 */
#define PSW_CC_SHIFT		44
#define PSW_WAIT		BIT_ULL(49)
#define PIC_OPERATION		1
#define GUEST_GPRS		14	/* those that SIE keeps in kvm_run */
#define MAX_IDS			16
#define QUEUE_DEPTH		8

/* Machine. */
static unsigned int apids[MAX_IDS] = { 0x05, 0x06 };
static unsigned int n_apids = 2;
module_param_array(apids, uint, &n_apids, 0644);
MODULE_PARM_DESC(apids, "adapters of the machine (default 5,6)");

static unsigned int apqis[MAX_IDS] = { 0x04, 0x47, 0xab, 0xff };
static unsigned int n_apqis = 4;
module_param_array(apqis, uint, &n_apqis, 0644);
MODULE_PARM_DESC(apqis, "usage and control domains of the machine (default 0x04,0x47,0xab,0xff)");

static unsigned int ap_type = 14;
module_param(ap_type, uint, 0644);
MODULE_PARM_DESC(ap_type, "type of all adapters (default 14, a CEX8)");

static unsigned int ap_fac = 0x6e000000;
module_param(ap_fac, uint, 0644);
MODULE_PARM_DESC(ap_fac, "facilities that TAPQ reports (default: modes of an EP11 coprocessor and an accelerator)");

static bool uv;
module_param(uv, bool, 0444);
MODULE_PARM_DESC(uv, "be a host of protected guests: ultravisor calls succeed and do nothing (default off)");

/* Behaviour, while it runs. */
static unsigned int reset_ms;
module_param(reset_ms, uint, 0644);
MODULE_PARM_DESC(reset_ms, "how long RAPQ and ZAPQ stay in progress; lowering it ends those that have lasted so long (default 0)");

static unsigned int op_us;
module_param(op_us, uint, 0644);
MODULE_PARM_DESC(op_us, "microseconds that each PQAP takes, busily (default 0)");

static int deconf_apid = -1;
module_param(deconf_apid, int, 0644);
MODULE_PARM_DESC(deconf_apid, "this adapter is deconfigured (default -1, none)");

static unsigned int sie_budget = 256;
module_param(sie_budget, uint, 0644);
MODULE_PARM_DESC(sie_budget, "guest instructions interpreted in one entry of SIE (default 256)");

static int sie_mode = 2;
module_param(sie_mode, int, 0444);
MODULE_PARM_DESC(sie_mode, "where guests are interpreted: 0 nowhere, 1 in the exception (until v6.12), 2 in kvm's tracepoint (default)");

/* Instructions executed so far, host and guests together. */
static unsigned long n_tapq;
module_param(n_tapq, ulong, 0444);
MODULE_PARM_DESC(n_tapq, "PQAP test queue (TAPQ) executed");

static unsigned long n_rapq;
module_param(n_rapq, ulong, 0444);
MODULE_PARM_DESC(n_rapq, "PQAP reset queue (RAPQ) executed");

static unsigned long n_zapq;
module_param(n_zapq, ulong, 0444);
MODULE_PARM_DESC(n_zapq, "PQAP zeroize queue (ZAPQ) executed");

static unsigned long n_aqic;
module_param(n_aqic, ulong, 0444);
MODULE_PARM_DESC(n_aqic, "PQAP queue interruption control (AQIC) executed");

static unsigned long n_qci;
module_param(n_qci, ulong, 0444);
MODULE_PARM_DESC(n_qci, "PQAP query configuration (QCI) executed");

static unsigned long n_qact;
module_param(n_qact, ulong, 0444);
MODULE_PARM_DESC(n_qact, "PQAP query compatible type (QACT) executed");

static unsigned long n_nqap;
module_param(n_nqap, ulong, 0444);
MODULE_PARM_DESC(n_nqap, "NQAP executed");

static unsigned long n_dqap;
module_param(n_dqap, ulong, 0444);
MODULE_PARM_DESC(n_dqap, "DQAP executed");

static unsigned long n_sie;
module_param(n_sie, ulong, 0444);
MODULE_PARM_DESC(n_sie, "entries of SIE");

static unsigned long n_uvc;
module_param(n_uvc, ulong, 0444);
MODULE_PARM_DESC(n_uvc, "ultravisor calls");

static unsigned long n_other;
module_param(n_other, ulong, 0444);
MODULE_PARM_DESC(n_other, "PQAP with a function that is not emulated");

/**
 * struct shim_queue - an AP queue
 * @irq: interruptions are enabled
 * @resetting: a reset has begun; it is over @reset_ms after @reset_at
 * @reset_at: when, ktime_get_mono_fast_ns()
 * @n: requests without a reply
 * @psmid: their ids
 */
struct shim_queue {
	bool irq;
	bool resetting;
	u64 reset_at;
	u8 n;
	u64 psmid[QUEUE_DEPTH];
};

/* Guards queues and counters. Raw: it is taken in an exception of the kernel. */
static DEFINE_RAW_SPINLOCK(queue_lock);
static struct shim_queue queues[MAX_IDS][MAX_IDS];

static struct shim_queue *find_queue(unsigned int apqn)
{
	unsigned int a, d;

	for (a = 0; a < n_apids; a++)
		for (d = 0; d < n_apqis; d++)
			if (apids[a] == apqn >> 8 && apqis[d] == (apqn & 0xff))
				return &queues[a][d];
	return NULL;
}

/* Bits of architected bit strings: bit 0 is the leftmost one of byte 0. */
static bool bit_test(const void *string, unsigned int nr)
{
	return ((const u8 *)string)[nr >> 3] & (0x80 >> (nr & 7));
}

static void bit_set(void *string, unsigned int nr)
{
	((u8 *)string)[nr >> 3] |= 0x80 >> (nr & 7);
}

static void bit_clear(void *string, unsigned int nr)
{
	((u8 *)string)[nr >> 3] &= ~(0x80 >> (nr & 7));
}

static u32 status_word(const struct shim_queue *q, u8 rc)
{
	u32 status = (u32)rc << 16;

	if (!q)
		return status;
	status |= q->n ? STATUS_REPLIES : STATUS_EMPTY;
	if (q->n >= QUEUE_DEPTH)
		status |= STATUS_FULL;
	if (q->irq)
		status |= STATUS_IRQ;
	return status;
}

/* The 128 bytes of QCI: flags, highest ids, adapters, usage and control domains. */
static void fill_qci(u8 *info)
{
	unsigned int i;

	memset(info, 0, 128);
	info[0] = 0xe0;		/* APSC, APXA, QACT */
	info[4] = 255;
	info[5] = 255;
	for (i = 0; i < n_apids; i++)
		if ((int)apids[i] != deconf_apid)
			bit_set(info + 16, apids[i] & 0xff);
	for (i = 0; i < n_apqis; i++) {
		bit_set(info + 48, apqis[i] & 0xff);
		bit_set(info + 80, apqis[i] & 0xff);
	}
}

static bool in_reset(struct shim_queue *q, u64 now)
{
	if (q->resetting && now - q->reset_at >= reset_ms * (u64)NSEC_PER_MSEC)
		q->resetting = false;
	return q->resetting;
}

/* What the state of a queue answers to any function. */
static u8 queue_response(struct shim_queue *q, unsigned int apqn, u64 now)
{
	if (!q)
		return RC_Q_NOT_AVAIL;
	if ((int)(apqn >> 8) == deconf_apid)
		return RC_DECONFIGURED;
	if (in_reset(q, now))
		return RC_RESET_IN_PROGRESS;
	return RC_NORMAL;
}

static u8 do_aqic(struct shim_queue *q, u64 control)
{
	bool enable = control & AQIC_IR;

	if (enable == q->irq)
		return RC_OTHERWISE_CHANGED;
	q->irq = enable;
	return RC_NORMAL;
}

static void do_reset(struct shim_queue *q, u64 now)
{
	q->irq = false;
	q->n = 0;
	q->resetting = true;
	q->reset_at = now;
}

/**
 * do_pqap() - execute PQAP
 * @g: general registers, of the host or of a guest
 * @apcb: masks of adapters and domains of the guest, NULL for the host
 *
 * Return: the condition code
 */
static int do_pqap(unsigned long *g, const void *apcb)
{
	unsigned int fc = (g[0] >> 24) & 0xff;
	unsigned int apqn = g[0] & 0xffff;
	struct shim_queue *q;
	unsigned long flags;
	u64 now;
	u8 rc;

	if (op_us)
		udelay(op_us);
	if (fc == FC_QCI) {
		n_qci++;
		fill_qci((u8 *)g[2]);
		return 0;
	}
	now = ktime_get_mono_fast_ns();
	raw_spin_lock_irqsave(&queue_lock, flags);
	q = find_queue(apqn);
	if (apcb && !(bit_test(apcb, apqn >> 8) && bit_test(apcb + 32, apqn & 0xff)))
		q = NULL;
	rc = queue_response(q, apqn, now);
	switch (fc) {
	case FC_TAPQ:
		n_tapq++;
		g[2] = 0;
		if (q)
			g[2] = (u64)ap_fac << 32 | ap_type << 24 | 0xff << 16 | (QUEUE_DEPTH - 1);
		break;
	case FC_RAPQ:
	case FC_ZAPQ:
		if (fc == FC_RAPQ)
			n_rapq++;
		else
			n_zapq++;
		if (!rc)
			do_reset(q, now);
		break;
	case FC_AQIC:
		n_aqic++;
		if (!rc)
			rc = do_aqic(q, g[1]);
		break;
	case FC_QACT:
		n_qact++;
		/* In and out: the type. An older kernel asks for the newest one that it knows. */
		g[2] = (u64)min_t(unsigned int, ap_type, (g[1] >> 24) & 0xff) << 24;
		break;
	default:
		n_other++;
		rc = RC_BUSY;
	}
	g[1] = (g[1] & 0xffffffff00000000UL) | status_word(q, rc);
	raw_spin_unlock_irqrestore(&queue_lock, flags);
	return rc ? 3 : 0;
}

static u8 do_nqap(struct shim_queue *q, unsigned long *g, unsigned int r1, unsigned int r2)
{
	n_nqap++;
	if (q->n >= QUEUE_DEPTH)
		return RC_Q_FULL;
	q->psmid[q->n++] = g[r1] << 32 | (u32)g[r1 + 1];
	g[r2] += g[r2 + 1];
	g[r2 + 1] = 0;
	return RC_NORMAL;
}

/* Replies are empty: nothing is computed. */
static u8 do_dqap(struct shim_queue *q, unsigned long *g, unsigned int r1)
{
	u64 id;

	n_dqap++;
	if (!q->n)
		return RC_NO_PENDING_REPLY;
	id = q->psmid[0];
	memmove(q->psmid, q->psmid + 1, --q->n * sizeof(*q->psmid));
	g[r1] = id >> 32;
	g[r1 + 1] = (u32)id;
	g[2] = 0;
	return RC_NORMAL;
}

/* Executes NQAP or DQAP of the host. @rr: the byte with both register numbers, which are even. */
static int do_message(unsigned long *g, u16 op, u8 rr)
{
	unsigned int r1 = rr >> 4 & 14, r2 = rr & 14;
	struct shim_queue *q;
	unsigned long flags;
	u8 rc;

	raw_spin_lock_irqsave(&queue_lock, flags);
	q = find_queue(g[0] & 0xffff);
	if (!q)
		rc = RC_Q_NOT_AVAIL;
	else if (op == OP_NQAP)
		rc = do_nqap(q, g, r1, r2);
	else
		rc = do_dqap(q, g, r1);
	g[1] = status_word(q, rc);
	raw_spin_unlock_irqrestore(&queue_lock, flags);
	return rc ? 3 : 0;
}

static void set_cc(unsigned long *mask, int cc)
{
	*mask = (*mask & ~(3UL << PSW_CC_SHIFT)) | ((unsigned long)cc << PSW_CC_SHIFT);
}

/* Reads an instruction at a guest absolute address without sleeping. */
static int guest_fetch(struct kvm *kvm, unsigned long address, u8 *in)
{
	unsigned long offset = offset_in_page(address), va;
	struct kvm_memory_slot *slot;
	struct page *page;
	int rc = -EFAULT;

	rcu_read_lock();
	slot = gfn_slot(rcu_dereference_raw(kvm->memslots[0]), address >> PAGE_SHIFT);
	if (!slot)
		goto out;
	va = slot->userspace_addr + (address - (slot->base_gfn << PAGE_SHIFT));
	if (get_user_pages_fast_only(va & PAGE_MASK, 1, 0, &page) != 1)
		goto out;
	memset(in, 0, 6);
	memcpy(in, page_address(page) + offset, min_t(unsigned long, 6, PAGE_SIZE - offset));
	put_page(page);
	rc = 0;
out:
	rcu_read_unlock();
	return rc;
}

static void intercept(struct kvm_s390_sie_block *sb, const u8 *in, int len)
{
	sb->icptcode = ICPT_INST;
	sb->ipa = in[0] << 8 | in[1];
	sb->ipb = (u32)in[2] << 24 | in[3] << 16;
	if (len == 6)
		sb->ipb |= in[4] << 8 | in[5];
	sb->icptstatus = 0;
}

/* BRC, BRCTG, LGHI and AGHI, whose condition code is left out. */
static bool do_immediate(struct kvm_s390_sie_block *sb, unsigned long *g, const u8 *in)
{
	unsigned int r1 = in[1] >> 4, cc = sb->gpsw.mask >> PSW_CC_SHIFT & 3;
	s16 imm = in[2] << 8 | in[3];

	switch (in[1] & 15) {
	case 0x4:
		if (r1 & (8 >> cc))
			sb->gpsw.addr += imm * 2 - 4;
		return true;
	case 0x7:
		if (--g[r1])
			sb->gpsw.addr += imm * 2 - 4;
		return true;
	case 0x9:
		g[r1] = (s64)imm;
		return true;
	case 0xb:
		g[r1] += (s64)imm;
		return true;
	}
	return false;
}

/* LGFI, LLIHF and LLILF. */
static bool do_long_immediate(unsigned long *g, const u8 *in)
{
	u32 imm = (u32)in[2] << 24 | in[3] << 16 | in[4] << 8 | in[5];
	unsigned int r1 = in[1] >> 4;

	switch (in[1] & 15) {
	case 0x1:
		g[r1] = (s64)(s32)imm;
		return true;
	case 0xe:
		g[r1] = (u64)imm << 32;
		return true;
	case 0xf:
		g[r1] = imm;
		return true;
	}
	return false;
}

/* Interprets one instruction of a guest, or returns false: SIE intercepts it. */
static bool interpret(struct kvm_s390_sie_block *sb, unsigned long *g,
		      const void *apcb, const u8 *in)
{
	unsigned int r1 = in[1] >> 4;

	switch (in[0]) {
	case 0x07:		/* BCR, as a no-operation only */
		return !(in[1] & 0xf0) || !(in[1] & 0x0f);
	case 0xa7:		/* the mask of BRC is no register */
		return (r1 < GUEST_GPRS || (in[1] & 15) == 4) && do_immediate(sb, g, in);
	case 0xc0:
		return r1 < GUEST_GPRS && do_long_immediate(g, in);
	case 0xb9:		/* LGR */
		if (in[1] != 0x04 || in[3] >> 4 >= GUEST_GPRS || (in[3] & 15) >= GUEST_GPRS)
			return false;
		g[in[3] >> 4] = g[in[3] & 15];
		return true;
	case 0xb2:		/* AP interpretation: AQIC and what follows it are intercepted */
		if (in[1] != 0xaf || !(sb->eca & ECA_APIE) || !apcb)
			return false;
		if (((g[0] >> 24) & 0xff) >= FC_AQIC)
			return false;
		set_cc(&sb->gpsw.mask, do_pqap(g, apcb));
		return true;
	}
	return false;
}

/**
 * emulate_sie() - run a guest until an interception
 * @sb: its SIE control block, which says in the end why it was left
 * @g: its general registers 0 to 13
 */
static void emulate_sie(struct kvm_s390_sie_block *sb, unsigned long *g)
{
	struct sie_page2 *p2 = phys_to_virt(sb->crycbd & PAGE_MASK & 0xffffffffUL);
	unsigned int budget = sie_budget;
	const void *apcb = NULL;

	n_sie++;
	if ((sb->crycbd & CRYCB_FORMAT_MASK) == CRYCB_FORMAT2)
		apcb = &p2->crycb.apcb1;

	while (budget-- && !need_resched()) {
		u8 in[6];
		int len;

		if (atomic_read(&sb->cpuflags) & CPUSTAT_STOP_INT) {
			sb->icptcode = ICPT_STOP;
			return;
		}
		if (atomic_read(&sb->prog20))
			return;
		if (sb->gpsw.mask & PSW_WAIT) {
			sb->icptcode = ICPT_WAIT;
			return;
		}
		if (guest_fetch(p2->kvm, sb->gpsw.addr, in)) {
			/* Not there: who runs guests touches their memory before. */
			sb->icptcode = ICPT_VALIDITY;
			return;
		}
		len = in[0] < 0x40 ? 2 : in[0] < 0xc0 ? 4 : 6;
		sb->gpsw.addr += len;
		if (!interpret(sb, g, apcb, in)) {
			intercept(sb, in, len);
			return;
		}
	}
	/* As for an interruption of the host: kvm enters again. */
	sb->icptcode = ICPT_EXTREQ;
}

/*
 * sie_mode 2: the tracepoint comes right after SIE, and before kvm looks at the
 * interception code. kvm itself has dealt with the exception that SIE ended in.
 */
static void probe_sie_exit(void *data, struct kvm_vcpu *vcpu, u8 icptcode)
{
	if (icptcode)
		return;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
	/* Exceptions in SIE are noted in the thread since v6.13. */
	if ((current->thread.gmap_int_code & 0xff) != PIC_OPERATION)
		return;
	current->thread.gmap_int_code = 0;
#endif
	emulate_sie(vcpu->arch.sie_block, (unsigned long *)vcpu->run->s.regs.gprs);
}

static struct tracepoint *sie_exit_tp;

static int kvm_comes_or_goes(struct notifier_block *nb, unsigned long val, void *data)
{
	struct module *mod = ((struct tp_module *)data)->mod;
	unsigned int i;

	if (strcmp(mod->name, "kvm"))
		return NOTIFY_DONE;
	for (i = 0; i < mod->num_tracepoints; i++) {
		struct tracepoint *tp = tracepoint_ptr_deref(&mod->tracepoints_ptrs[i]);

		if (strcmp(tp->name, "kvm_s390_sie_exit"))
			continue;
		if (val == MODULE_STATE_COMING && !sie_exit_tp) {
			if (!tracepoint_probe_register(tp, probe_sie_exit, NULL))
				sie_exit_tp = tp;
			pr_info("SIE emulation attached to kvm_s390_sie_exit: %d\n", !!sie_exit_tp);
		} else if (val == MODULE_STATE_GOING && sie_exit_tp == tp) {
			tracepoint_probe_unregister(tp, probe_sie_exit, NULL);
			sie_exit_tp = NULL;
		}
	}
	return NOTIFY_OK;
}

static struct notifier_block kvm_nb = {
	.notifier_call = kvm_comes_or_goes,
};

/* Every ultravisor call succeeds; those that create something hand out a handle. */
static int do_uvc(struct uv_cb_header *header)
{
	static atomic64_t handle = ATOMIC64_INIT(0x1000);

	n_uvc++;
	if (header->cmd == UVC_CMD_CREATE_SEC_CONF || header->cmd == UVC_CMD_CREATE_SEC_CPU)
		((u64 *)header)[3] = atomic64_inc_return(&handle);
	header->rc = UVC_RC_EXECUTED;
	header->rrc = 0;
	return 0;
}

static void uv_on(void)
{
	if (!uv)
		return;
	if (prot_virt_host) {
		/* There is a real one. */
		uv = false;
		return;
	}
	uv_info.guest_base_stor_len = PAGE_SIZE;
	uv_info.guest_virt_base_stor_len = PAGE_SIZE;
	uv_info.guest_virt_var_stor_len = PAGE_SIZE;
	uv_info.guest_cpu_stor_len = PAGE_SIZE;
	prot_virt_host = 1;
}

/* An instruction of the kernel that the machine does not have. */
static int on_die(struct notifier_block *nb, unsigned long val, void *data)
{
	struct pt_regs *regs = ((struct die_args *)data)->regs;
	const u8 *in;
	int cc;

	if (val != DIE_BPT || user_mode(regs) || (regs->int_code & 0xff) != PIC_OPERATION)
		return NOTIFY_DONE;
	if (sie_mode == 1 && regs->psw.addr == (unsigned long)&sie_exit) {
		/* The exception handler has turned an exception in SIE into a return from it. */
		emulate_sie(phys_to_virt(regs->gprs[14]), regs->gprs);
		return NOTIFY_STOP;
	}
	in = (const u8 *)(regs->psw.addr - (regs->int_code >> 16));
	switch (in[0] << 8 | in[1]) {
	case OP_PQAP:
		cc = do_pqap(regs->gprs, NULL);
		break;
	case OP_NQAP:
	case OP_DQAP:
		cc = do_message(regs->gprs, in[0] << 8 | in[1], in[3]);
		break;
	case OP_UVC:
		if (!uv)
			return NOTIFY_DONE;
		cc = do_uvc((void *)regs->gprs[in[3] & 15]);
		break;
	case OP_PCKMO:
		/* The query, which kvm makes when it is loaded: nothing is installed. */
		if (regs->gprs[0] & 0x7f)
			return NOTIFY_DONE;
		memset((void *)regs->gprs[1], 0, 16);
		cc = 0;
		break;
	default:
		/* So is this: PLO with the test bit, for a function that is not there. */
		if (in[0] != OP_PLO || !(regs->gprs[0] & PLO_TEST))
			return NOTIFY_DONE;
		cc = 3;
	}
	set_cc(&regs->psw.mask, cc);
	return NOTIFY_STOP;
}

NOKPROBE_SYMBOL(on_die);

static struct notifier_block die_nb = {
	.notifier_call = on_die,
	.priority = 100,
};

static int chsc_sgib_returns(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	pr_info("chsc_sgib: rc %d -> 0\n", (int)regs->gprs[2]);
	regs->gprs[2] = 0;
	return 0;
}

static struct kretprobe sgib_probe = {
	.kp.symbol_name = "chsc_sgib",
	.handler = chsc_sgib_returns,
	.maxactive = 1,
};

/*
 * AP query configuration, AP facilities test, AP queue interruption control, and
 * message-security-assist extension 3, which kvm wants for its crypto attributes.
 */
static const u8 wanted[] = { 12, 15, 65, 76 };
static bool had[ARRAY_SIZE(wanted)];
static bool had_sief2, had_aiv;

static void facilities_on(void *unused)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(wanted); i++)
		bit_set(FACILITIES, wanted[i]);
}

static void facilities_off(void *unused)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(wanted); i++)
		if (!had[i])
			bit_clear(FACILITIES, wanted[i]);
}

static int __init shim_init(void)
{
	int rc, i;

	rc = register_die_notifier(&die_nb);
	if (rc)
		return rc;
	rc = register_kretprobe(&sgib_probe);
	if (rc)
		pr_warn("no kretprobe on chsc_sgib: %d\n", rc);
	if (sie_mode == 2)
		register_tracepoint_module_notifier(&kvm_nb);
	had_sief2 = sclp.has_sief2;
	sclp.has_sief2 = 1;
	had_aiv = css_general_characteristics.aiv;
	css_general_characteristics.aiv = 1;
	for (i = 0; i < ARRAY_SIZE(wanted); i++)
		had[i] = bit_test(FACILITIES, wanted[i]);
	on_each_cpu(facilities_on, NULL, 1);
	uv_on();
	pr_info("AP instructions are %savailable\n",
		ap_instructions_available() ? "" : "NOT ");
	return 0;
}

static void __exit shim_exit(void)
{
	on_each_cpu(facilities_off, NULL, 1);
	if (uv)
		prot_virt_host = 0;
	sclp.has_sief2 = had_sief2;
	css_general_characteristics.aiv = had_aiv;
	if (sie_mode == 2)
		unregister_tracepoint_module_notifier(&kvm_nb);
	tracepoint_synchronize_unregister();
	unregister_kretprobe(&sgib_probe);
	unregister_die_notifier(&die_nb);
}

module_init(shim_init);
module_exit(shim_exit);
MODULE_DESCRIPTION("AP instructions and SIE for vfio_ap under QEMU's software emulation");
MODULE_LICENSE("GPL");
