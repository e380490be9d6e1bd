//! Names of return codes: errno values of Linux (include/uapi/asm-generic/errno*.h and the kernel-internal ones of
//! include/linux/errno.h, v6.18) and of notifier chains (include/linux/notifier.h).

use std::borrow::Cow;

use probe_ebpf::abi::RETURN_CODES;
use probe_ebpf::names::{ENTRY_POINTS, ReturnKind};

/// errno 1 to 133; empty where no number is assigned.
const USER: [&str; 133] = [
    "EPERM",
    "ENOENT",
    "ESRCH",
    "EINTR",
    "EIO",
    "ENXIO",
    "E2BIG",
    "ENOEXEC",
    "EBADF",
    "ECHILD",
    "EAGAIN",
    "ENOMEM",
    "EACCES",
    "EFAULT",
    "ENOTBLK",
    "EBUSY",
    "EEXIST",
    "EXDEV",
    "ENODEV",
    "ENOTDIR",
    "EISDIR",
    "EINVAL",
    "ENFILE",
    "EMFILE",
    "ENOTTY",
    "ETXTBSY",
    "EFBIG",
    "ENOSPC",
    "ESPIPE",
    "EROFS",
    "EMLINK",
    "EPIPE",
    "EDOM",
    "ERANGE",
    "EDEADLK",
    "ENAMETOOLONG",
    "ENOLCK",
    "ENOSYS",
    "ENOTEMPTY",
    "ELOOP",
    "",
    "ENOMSG",
    "EIDRM",
    "ECHRNG",
    "EL2NSYNC",
    "EL3HLT",
    "EL3RST",
    "ELNRNG",
    "EUNATCH",
    "ENOCSI",
    "EL2HLT",
    "EBADE",
    "EBADR",
    "EXFULL",
    "ENOANO",
    "EBADRQC",
    "EBADSLT",
    "",
    "EBFONT",
    "ENOSTR",
    "ENODATA",
    "ETIME",
    "ENOSR",
    "ENONET",
    "ENOPKG",
    "EREMOTE",
    "ENOLINK",
    "EADV",
    "ESRMNT",
    "ECOMM",
    "EPROTO",
    "EMULTIHOP",
    "EDOTDOT",
    "EBADMSG",
    "EOVERFLOW",
    "ENOTUNIQ",
    "EBADFD",
    "EREMCHG",
    "ELIBACC",
    "ELIBBAD",
    "ELIBSCN",
    "ELIBMAX",
    "ELIBEXEC",
    "EILSEQ",
    "ERESTART",
    "ESTRPIPE",
    "EUSERS",
    "ENOTSOCK",
    "EDESTADDRREQ",
    "EMSGSIZE",
    "EPROTOTYPE",
    "ENOPROTOOPT",
    "EPROTONOSUPPORT",
    "ESOCKTNOSUPPORT",
    "EOPNOTSUPP",
    "EPFNOSUPPORT",
    "EAFNOSUPPORT",
    "EADDRINUSE",
    "EADDRNOTAVAIL",
    "ENETDOWN",
    "ENETUNREACH",
    "ENETRESET",
    "ECONNABORTED",
    "ECONNRESET",
    "ENOBUFS",
    "EISCONN",
    "ENOTCONN",
    "ESHUTDOWN",
    "ETOOMANYREFS",
    "ETIMEDOUT",
    "ECONNREFUSED",
    "EHOSTDOWN",
    "EHOSTUNREACH",
    "EALREADY",
    "EINPROGRESS",
    "ESTALE",
    "EUCLEAN",
    "ENOTNAM",
    "ENAVAIL",
    "EISNAM",
    "EREMOTEIO",
    "EDQUOT",
    "ENOMEDIUM",
    "EMEDIUMTYPE",
    "ECANCELED",
    "ENOKEY",
    "EKEYEXPIRED",
    "EKEYREVOKED",
    "EKEYREJECTED",
    "EOWNERDEAD",
    "ENOTRECOVERABLE",
    "ERFKILL",
    "EHWPOISON",
];

/// errno 512 to 531, never seen by user space; empty where no number is assigned.
const INTERNAL: [&str; 20] = [
    "ERESTARTSYS",
    "ERESTARTNOINTR",
    "ERESTARTNOHAND",
    "ENOIOCTLCMD",
    "ERESTART_RESTARTBLOCK",
    "EPROBE_DEFER",
    "EOPENSTALE",
    "ENOPARAM",
    "",
    "EBADHANDLE",
    "ENOTSYNC",
    "EBADCOOKIE",
    "ENOTSUPP",
    "ETOOSMALL",
    "ESERVERFAULT",
    "EBADTYPE",
    "EJUKEBOX",
    "EIOCBQUEUED",
    "ERECALLCONFLICT",
    "ENOGRACE",
];

/// Name of an errno number (`EBUSY` for 16), where it has one.
pub fn errno_name(errno: u32) -> Option<&'static str> {
    let name = match errno {
        1..=133 => USER[errno as usize - 1],
        512..=531 => INTERNAL[errno as usize - 512],
        _ => "",
    };
    (!name.is_empty()).then_some(name)
}

/// Spelling of a return code of an entry point, as counted by the probes: `ok`, `-EBUSY`, `NOTIFY_DONE`, ...; a number
/// without a name is spelled `-41`, what is no errno at all `other`.
pub fn return_name(entry: u8, code: u32) -> Cow<'static, str> {
    if code as usize >= RETURN_CODES - 1 {
        return "other".into();
    }
    let returns = ENTRY_POINTS.get(usize::from(entry)).map(|e| e.returns);
    if returns == Some(ReturnKind::Notify) {
        return match code {
            0 => "NOTIFY_DONE".into(),
            1 => "NOTIFY_OK".into(),
            2 => "NOTIFY_BAD".into(),
            3 => "NOTIFY_STOP".into(),
            n => format!("NOTIFY_{n}").into(),
        };
    }
    if code == 0 {
        return "ok".into();
    }
    match errno_name(code) {
        Some(name) => format!("-{name}").into(),
        None => format!("-{code}").into(),
    }
}

#[cfg(test)]
mod tests {
    use probe_ebpf::names::entry_id;

    use super::*;

    #[test]
    fn names_agree_with_libc() {
        for (number, name) in [
            (libc::EPERM, "EPERM"),
            (libc::EBUSY, "EBUSY"),
            (libc::ERANGE, "ERANGE"),
            (libc::ENOSYS, "ENOSYS"),
            (libc::ELOOP, "ELOOP"),
            (libc::ENOMSG, "ENOMSG"),
            (libc::EBADSLT, "EBADSLT"),
            (libc::EBFONT, "EBFONT"),
            (libc::EOVERFLOW, "EOVERFLOW"),
            (libc::ERESTART, "ERESTART"),
            (libc::EOPNOTSUPP, "EOPNOTSUPP"),
            (libc::EADDRINUSE, "EADDRINUSE"),
            (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
            (libc::ETIMEDOUT, "ETIMEDOUT"),
            (libc::EINPROGRESS, "EINPROGRESS"),
            (libc::ENOKEY, "ENOKEY"),
            (libc::EHWPOISON, "EHWPOISON"),
        ] {
            assert_eq!(errno_name(number.cast_unsigned()), Some(name));
        }
        assert_eq!(errno_name(512), Some("ERESTARTSYS"));
        assert_eq!(errno_name(517), Some("EPROBE_DEFER"));
        assert_eq!(errno_name(524), Some("ENOTSUPP"));
        assert_eq!(errno_name(529), Some("EIOCBQUEUED"));
        assert_eq!(errno_name(531), Some("ENOGRACE"));
        for nameless in [0, 41, 58, 134, 511, 520, 532, u32::MAX] {
            assert_eq!(errno_name(nameless), None);
        }
    }

    #[test]
    fn every_name_is_unique() {
        let mut names: Vec<_> = (0..600).filter_map(errno_name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(count, 131 + 19);
    }

    #[test]
    fn return_codes_are_spelled_by_the_kind_of_function() {
        assert_eq!(return_name(entry_id::ASSIGN_ADAPTER, 0), "ok");
        assert_eq!(return_name(entry_id::ASSIGN_ADAPTER, 16), "-EBUSY");
        assert_eq!(return_name(entry_id::ASSIGN_ADAPTER, 41), "-41");
        assert_eq!(return_name(entry_id::ASSIGN_ADAPTER, 535), "other");
        assert_eq!(return_name(entry_id::GROUP_NOTIFIER, 0), "NOTIFY_DONE");
        assert_eq!(return_name(entry_id::GROUP_NOTIFIER, 1), "NOTIFY_OK");
        assert_eq!(return_name(entry_id::GROUP_NOTIFIER, 2), "NOTIFY_BAD");
        assert_eq!(return_name(entry_id::GROUP_NOTIFIER, 535), "other");
        assert_eq!(return_name(200, 16), "-EBUSY");
    }
}
