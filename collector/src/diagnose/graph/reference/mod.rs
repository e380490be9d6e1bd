//! The graphs once more, slow and by definition, and properties that hold the fast ones against them.
//!
//! [`simulator`] makes histories: tasks take, release and wait for locks of every kind by the rules of the kernel, in
//! any order of release. [`waits`] and [`order`] have the definitions, which try all subsets and all paths.
//!
//! The number of cases of each property is that of PROPTEST_CASES, else a few thousand. 25,000 of each, so 100,000:
//! `PROPTEST_CASES=25000 cargo test --release -p apscope-collector --lib graph::reference`

mod order;
mod simulator;
mod waits;

use proptest::test_runner::Config;

/// Cases of one property.
fn config() -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok();
    Config {
        cases: cases.and_then(|text| text.parse().ok()).unwrap_or(2_000),
        // Nothing is written into the source tree: a failing case is shown, and becomes a test by name.
        failure_persistence: None,
        ..Config::default()
    }
}
