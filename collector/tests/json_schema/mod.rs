//! Checks a JSON value against one of our published schemas.

use serde_json::Value;

/// What is wrong with a value, by the keywords that our schema uses; any other keyword is an error.
pub fn violations(schema: &Value, root: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let mut wrong = |what: String| found.push(format!("{at}: {what}"));
    let mut inner: Vec<(String, &Value, &Value)> = Vec::new();
    for (keyword, rule) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/").unwrap();
                let target = root.pointer(&format!("/{name}")).unwrap();
                inner.push((at.to_owned(), target, value));
            }
            "type" => {
                let fits = match rule.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_u64() || value.is_i64(),
                    other => panic!("type {other}"),
                };
                if !fits {
                    wrong(format!("{value} is not of type {rule}"));
                }
            }
            "const" if value != rule => wrong(format!("{value} is not {rule}")),
            "enum" if !rule.as_array().unwrap().contains(value) => {
                wrong(format!("{value} is none of {rule}"));
            }
            "minimum" if value.as_i64().is_some_and(|n| n < rule.as_i64().unwrap()) => {
                wrong(format!("{value} is below {rule}"));
            }
            "minItems" if (value.as_array().unwrap().len() as u64) < rule.as_u64().unwrap() => {
                wrong("too few elements".into());
            }
            "maxItems" if value.as_array().unwrap().len() as u64 > rule.as_u64().unwrap() => {
                wrong("too many elements".into());
            }
            "required" => {
                for name in rule.as_array().unwrap() {
                    if value.get(name.as_str().unwrap()).is_none() {
                        wrong(format!("{name} is missing"));
                    }
                }
            }
            "properties" => {
                for (name, rule) in rule.as_object().unwrap() {
                    if let Some(member) = value.get(name) {
                        inner.push((format!("{at}/{name}"), rule, member));
                    }
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties");
                for (name, member) in value.as_object().unwrap() {
                    if known.is_some_and(|known| known.get(name).is_some()) {
                        continue;
                    }
                    if *rule == Value::Bool(false) {
                        wrong(format!("{name} is not in the schema"));
                    } else {
                        inner.push((format!("{at}/{name}"), rule, member));
                    }
                }
            }
            "items" => {
                for (i, element) in value.as_array().unwrap().iter().enumerate() {
                    inner.push((format!("{at}/{i}"), rule, element));
                }
            }
            "pattern" if rule == "^0x[0-9a-f]+$" => {
                let digits = value.as_str().unwrap().strip_prefix("0x");
                if digits.is_none_or(|d| u64::from_str_radix(d, 16).is_err()) {
                    wrong(format!("{value} is no address"));
                }
            }
            "pattern" => {
                let time = value.as_str().unwrap().parse::<jiff::Timestamp>();
                if time.is_err() {
                    wrong(format!("{value} is no time"));
                }
            }
            "const" | "enum" | "minimum" | "minItems" | "maxItems" | "$schema" | "$defs"
            | "title" | "description" | "format" => {}
            other => panic!("the schema uses {other}, which this test does not know"),
        }
    }
    for (at, schema, value) in inner {
        violations(schema, root, value, &at, found);
    }
}
