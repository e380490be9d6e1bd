//! `torture_clients SOCKET COUNT SECONDS`: clients of `serve` that behave badly, for `cargo xtask serve`. Prints what they
//! did as JSON.

#[path = "../tests/clients/mod.rs"]
mod clients;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, count, seconds] = arguments.as_slice() else {
        panic!("torture_clients SOCKET COUNT SECONDS");
    };
    let count = count.parse().expect("COUNT is a number");
    let length = Duration::from_secs(seconds.parse().expect("SECONDS is a number"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let tally = runtime.block_on(clients::torture(&PathBuf::from(socket), count, length));
    let lives: serde_json::Map<_, _> = clients::KINDS
        .iter()
        .zip(&tally.lives)
        .map(|(kind, count)| ((*kind).to_owned(), count.load(Ordering::Relaxed).into()))
        .collect();
    println!(
        "{}",
        serde_json::json!({
            "connections": tally.connections.load(Ordering::Relaxed),
            "bytes": tally.bytes.load(Ordering::Relaxed),
            "lives": lives,
        })
    );
}
