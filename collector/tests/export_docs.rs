//! docs/exports.md has every table, every column and every schema. With APSCOPE_UPDATE_DOCS=1 in the environment the test
//! writes those parts.
// Parquet, which is among all exports, is there on these machines alone.
#![cfg(target_endian = "little")]

use std::fmt::Write;
use std::path::Path;

use apscope_collector::export::{csv, parquet};

fn tables() -> String {
    let mut text = "| table | a row is | columns, besides `driver` |\n|---|---|---|\n".to_owned();
    let names = |columns: &[&str]| {
        let quoted: Vec<_> = columns.iter().map(|name| format!("`{name}`")).collect();
        quoted.join(", ")
    };
    for table in &csv::TABLES {
        let columns = names(table.columns);
        let _ = writeln!(text, "| `{}` | {} | {columns} |", table.name, table.about);
    }
    let columns = names(&csv::SPAN_COLUMNS);
    let _ = writeln!(
        text,
        "| `spans` | a completed lock cycle or call | {columns} |"
    );
    text
}

fn schemas() -> String {
    let mut text = String::new();
    for (name, columns) in [
        ("spans.parquet", &parquet::SPANS[..]),
        ("histograms.parquet", &parquet::HISTOGRAMS),
    ] {
        let _ = writeln!(text, "### {name}\n\n| column | type | is |\n|---|---|---|");
        for column in columns {
            let (kind, meaning) = column.kind.spelled();
            let need = if column.optional { ", optional" } else { "" };
            let kind = format!("{kind} {meaning}");
            let kind = kind.trim_end();
            let _ = writeln!(
                text,
                "| `{}` | `{kind}`{need} | {} |",
                column.name, column.about
            );
        }
        text.push('\n');
    }
    text.trim_end().to_owned() + "\n"
}

/// The page with this part between its marks.
fn with(page: &str, mark: &str, part: &str) -> String {
    let mark = format!("<!-- {mark}: written by a test -->\n");
    let (before, rest) = page.split_once(&mark).unwrap();
    let (_, after) = rest.split_once("<!-- end -->").unwrap();
    format!("{before}{mark}{part}<!-- end -->{after}")
}

#[test]
fn the_page_has_every_table_and_column() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/exports.md");
    let found = std::fs::read_to_string(&path).unwrap();
    let expected = with(&with(&found, "tables", &tables()), "parquet", &schemas());
    if std::env::var_os("APSCOPE_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "run with APSCOPE_UPDATE_DOCS=1");
}
