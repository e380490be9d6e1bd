//! `apscope doctor`: on this machine under each missing capability, and on copies of others.

mod machines;

#[test]
fn try_all() {
    for (kernel, changes) in [
        ("5.10", &[][..]), ("6.1", &[]), ("6.12", &[]), ("7.2", &[]),
        ("7.2", &["no-tracefs"]), ("7.2", &["no-btf"]), ("7.2", &["paranoid"]), ("7.2", &["lockdown-integrity"]), ("7.2", &["lockdown-confidentiality"]),
        ("7.2", &["no-module"]), ("7.2", &["hidden-addresses"]), ("7.2", &["no-perfmon"]), ("7.2", &["user"]), ("7.2", &["namespace"]), ("7.2", &["realtime"]), ("7.2", &["no-kprobes"]), ("7.2", &["no-ftrace"]), ("5.10", &["small-memlock"]),
    ] {
        let m = machines::machine(kernel, changes);
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_apscope-collector")).args(["doctor", "--root"]).arg(m.path()).output().unwrap();
        let name = format!("/tmp/doc-{kernel}-{}.txt", changes.join("+"));
        std::fs::write(&name, &out.stdout).unwrap();
        println!("{name} {:?} {}", out.status.code(), String::from_utf8_lossy(&out.stderr));
    }
}
