//! A report of `apscope doctor`, held against its schema and taken apart.
#![allow(
    dead_code,
    reason = "shared by several tests, each of which uses a part"
)]

use std::process::Output;

use serde_json::Value;

use crate::json_schema::violations;
use crate::support::told;

/// The report on a machine, which must exit with what its verdict says.
pub fn report(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", told(output)));
    let exit = report["verdict"]["exit"].as_i64().unwrap();
    assert_eq!(output.status.code().map(i64::from), Some(exit));
    let schema: Value =
        serde_json::from_str(include_str!("../../../docs/doctor.schema.json")).unwrap();
    let mut found = Vec::new();
    violations(&schema, &schema, &report, "", &mut found);
    assert_eq!(found, [""; 0]);
    report
}

pub fn state(report: &Value) -> &str {
    report["verdict"]["state"].as_str().unwrap()
}

/// What is missing with this severity, what is lost and what to try, each as one text.
pub fn problems(report: &Value, severity: &str) -> Vec<String> {
    let problems = report["problems"].as_array().unwrap().iter();
    problems
        .filter(|problem| problem["severity"] == severity)
        .map(|problem| {
            let member = |name: &str| {
                let text = problem[name].as_str().unwrap();
                assert!(!text.is_empty(), "{name} is empty: {problem}");
                text
            };
            format!(
                "{} | {} | {}",
                member("what"),
                member("lost"),
                member("remedy")
            )
        })
        .collect()
}

/// Whether a mechanism is allowed, and the reason where it is not.
pub fn allowed(report: &Value, mechanism: &str) -> Result<(), String> {
    let all = report["allowed"]["mechanisms"].as_array().unwrap();
    let answer = all
        .iter()
        .find(|answer| answer["mechanism"] == mechanism)
        .unwrap();
    if answer["allowed"].as_bool().unwrap() {
        Ok(())
    } else {
        Err(answer["reason"].as_str().unwrap().to_owned())
    }
}

pub fn one_contains(texts: &[String], parts: &[&str]) {
    assert!(
        texts
            .iter()
            .any(|text| parts.iter().all(|part| text.contains(part))),
        "none has all of {parts:?}: {texts:#?}"
    );
}
