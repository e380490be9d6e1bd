//! docs/recording.md has every field of the schema, with its number and type, and no other.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Message → field → (number, type).
type Messages = BTreeMap<String, BTreeMap<String, (u32, String)>>;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(path)).unwrap()
}

fn schema() -> Messages {
    let mut messages = Messages::new();
    let mut message = String::new();
    for line in read("collector/proto/apscope/v1/frame.proto").lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("message ") {
            name.trim_end_matches(" {").clone_into(&mut message);
            messages.insert(message.clone(), BTreeMap::new());
        } else if let Some((left, number)) =
            line.strip_suffix(';').and_then(|l| l.split_once(" = "))
            && let Some((kind, name)) = left.rsplit_once(' ')
            && let Ok(number) = number.parse()
        {
            let fields = messages.get_mut(&message).unwrap();
            fields.insert(name.to_owned(), (number, kind.to_owned()));
        }
    }
    messages
}

fn documented() -> Messages {
    let text = read("docs/recording.md");
    let (_, fields) = text.split_once("\n## Fields\n").unwrap();
    let mut messages = Messages::new();
    let mut message = String::new();
    for line in fields.lines() {
        if let Some(name) = line.strip_prefix("### `") {
            name.trim_end_matches('`').clone_into(&mut message);
            messages.insert(message.clone(), BTreeMap::new());
        } else if let Some(row) = line.strip_prefix("| `") {
            let cells: Vec<&str> = row.splitn(4, " | ").collect();
            let [name, number, kind, is] = cells[..] else {
                panic!("{line}");
            };
            assert!(is.trim_end_matches('|').trim().len() > 3, "{line}");
            let value = (number.parse().unwrap(), kind.to_owned());
            let name = name.trim_end_matches('`').to_owned();
            let fields = messages.get_mut(&message).unwrap();
            assert!(fields.insert(name, value).is_none(), "{line}");
        }
    }
    messages
}

#[test]
fn every_field_is_documented_and_no_other() {
    let schema = schema();
    assert!(schema.len() > 20 && schema["Frame"]["base"].0 == 15);
    assert_eq!(documented(), schema);
}
