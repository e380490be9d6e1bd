//! Reduces recordings of a kernel to what tests need. Takes a folder with `kallsyms`, `available_filter_functions`,
//! `available_events`, `btf-*`, `notes` and build ids; writes the fixtures in `collector/tests/fixtures/kernels`:
//!
//! `APSCOPE_RECORDING=folder APSCOPE_FIXTURE=folder cargo test -p apscope-collector --lib attach::btf::reduce -- --ignored`

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::{env, fs};

use super::{Btf, TYPE, kind};
use crate::attach::offsets::Field;
use crate::attach::points::{Kind, VARIABLES, points};

/// Writes some types of a file, with what they are made of, under new numbers.
struct Reducer<'a> {
    btf: &'a Btf,
    /// New numbers of the base's types.
    base: &'a HashMap<u32, u32>,
    kept: BTreeSet<u32>,
}

impl Reducer<'_> {
    /// Keeps a type, and the types of its members. What pointers point to is not kept.
    fn keep(&mut self, id: u32) {
        if id < self.btf.first || !self.kept.insert(id) {
            return;
        }
        let Some((btf, t)) = self.btf.get(id) else {
            return;
        };
        match t.kind {
            kind::STRUCT | kind::UNION => {
                for index in 0..usize::from(t.length) {
                    self.keep(btf.word(t.at + TYPE + 12 * index + 4).unwrap());
                }
            }
            kind::ARRAY => self.keep(btf.word(t.at + TYPE).unwrap()),
            kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                self.keep(t.size_or_target);
            }
            kind::TYPEDEF if !btf.string(t.name).starts_with(b"btf_trace_") => {
                self.keep(t.size_or_target);
            }
            _ => {}
        }
    }

    /// The reduced file, and the new numbers.
    fn write(self, first: u32, first_string: u32) -> (Vec<u8>, HashMap<u32, u32>, u32) {
        let numbers: HashMap<u32, u32> = (first..)
            .zip(&self.kept)
            .map(|(new, old)| (*old, new))
            .collect();
        let number = |old: u32| {
            let known = numbers.get(&old).or_else(|| self.base.get(&old));
            known.copied().unwrap_or(0)
        };
        let btf = self.btf;
        let mut strings = if first_string == 0 {
            vec![0]
        } else {
            Vec::new()
        };
        let mut known = HashMap::from([(Vec::new(), 0)]);
        let mut string = |offset: u32| {
            let text = btf.string(offset).to_vec();
            *known.entry(text.clone()).or_insert_with(|| {
                let at = first_string + strings.len() as u32;
                strings.extend(&text);
                strings.push(0);
                at
            })
        };
        let mut types = Vec::new();
        let order = |word: u32| {
            if btf.big {
                word.to_be_bytes()
            } else {
                word.to_le_bytes()
            }
        };
        for id in &self.kept {
            let (_, t) = btf.get(*id).unwrap();
            let mut words: Vec<u32> = (0..btf.length_of(t.at, *id).unwrap() / 4)
                .map(|index| btf.word(t.at + 4 * index).unwrap())
                .collect();
            words[0] = string(t.name);
            match t.kind {
                kind::STRUCT | kind::UNION => {
                    for member in words[3..].chunks_mut(3) {
                        member[0] = string(member[0]);
                        member[1] = number(member[1]);
                    }
                }
                kind::ARRAY => {
                    words[3] = number(words[3]);
                    words[4] = 0;
                }
                kind::INT | kind::FLOAT | kind::FWD => {}
                // Without the values.
                kind::ENUM | kind::ENUM64 => {
                    words.truncate(3);
                    words[1] &= !0xffff;
                }
                kind::VOLATILE
                | kind::CONST
                | kind::RESTRICT
                | kind::TYPE_TAG
                | kind::TYPEDEF
                | kind::PTR
                | kind::FUNC => words[2] = number(words[2]),
                other => panic!("type {id} is of kind {other}"),
            }
            types.extend(words.into_iter().flat_map(order));
        }
        let mut all = btf.data[..4].to_vec();
        let length = types.len() as u32;
        for word in [24, 0, length, length, strings.len() as u32] {
            all.extend(order(word));
        }
        all.extend(types);
        all.extend(&strings);
        (all, numbers, strings.len() as u32)
    }
}

fn reduce(
    btf: &Btf,
    base: &HashMap<u32, u32>,
    first: u32,
    first_string: u32,
) -> (Vec<u8>, HashMap<u32, u32>, u32) {
    let mut reducer = Reducer {
        btf,
        base,
        kept: BTreeSet::new(),
    };
    for field in Field::ALL {
        for (id, t) in btf.own(field.outer().as_bytes()) {
            if matches!(t.kind, kind::STRUCT | kind::UNION) {
                reducer.keep(id);
            }
        }
    }
    for name in points().flat_map(|point| point.names) {
        let event = name.symbol.split_once(':').map_or("", |(_, event)| event);
        for wanted in [name.symbol, &format!("btf_trace_{event}")] {
            for (id, t) in btf.own(wanted.as_bytes()) {
                if matches!(t.kind, kind::FUNC | kind::TYPEDEF) {
                    reducer.keep(id);
                }
            }
        }
    }
    // Types of the base that only a module's structs have inside of them.
    reducer.write(first, first_string)
}

const MODULES: [&str; 8] = [
    "kvm", "vfio_ap", "mdev", "vfio", "ap", "aplab", "bpf", "ap_shim",
];

/// Names of vmlinux that the table knows.
fn wanted() -> Vec<String> {
    let mut names: Vec<String> = points()
        .flat_map(|point| {
            point.names.iter().map(|name| match point.kind {
                Kind::Function => name.symbol.to_owned(),
                Kind::Tracepoint => {
                    let event = name.symbol.split_once(':').unwrap().1;
                    format!("__traceiter_{event}")
                }
            })
        })
        .collect();
    names.extend(
        VARIABLES
            .iter()
            .flat_map(|variable| variable.names)
            .map(|(name, _)| (*name).to_owned()),
    );
    names
}

/// Lines of the modules and of the names wanted, and of the rest every 300th.
fn lines(text: &str, column: usize) -> String {
    let wanted = wanted();
    let mut out = String::new();
    for (number, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let Some(name) = words.get(column) else {
            continue;
        };
        let module = words
            .get(column + 1)
            .map(|word| word.trim_matches(['[', ']']));
        // Constants without names are half of a module's symbols.
        let constant = column == 2 && matches!(words[1], "r" | "d");
        let keep = match module {
            Some(module) => MODULES.contains(&module) && !constant,
            None => {
                number % 300 == 0
                    || wanted.iter().any(|wanted| {
                        name.strip_prefix(wanted.as_str())
                            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                    })
            }
        };
        if keep {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[test]
#[ignore = "writes fixtures from a recording"]
fn write_fixtures() {
    let (Ok(from), Ok(to)) = (env::var("APSCOPE_RECORDING"), env::var("APSCOPE_FIXTURE")) else {
        panic!("APSCOPE_RECORDING and APSCOPE_FIXTURE name the folders");
    };
    let (from, to) = (Path::new(&from), Path::new(&to));
    fs::create_dir_all(to).unwrap();
    let put = |name: &str, data: &[u8]| {
        let data = zstd::encode_all(data, 19).unwrap();
        fs::write(to.join(format!("{name}.zst")), data).unwrap();
    };
    let text = |name: &str| fs::read_to_string(from.join(name)).unwrap();
    put("kallsyms", lines(&text("kallsyms"), 2).as_bytes());
    put(
        "available_filter_functions",
        lines(&text("available_filter_functions"), 0).as_bytes(),
    );
    let events: String = text("available_events")
        .split_inclusive('\n')
        .filter(|line| {
            ["lock:", "workqueue:", "kvm:"]
                .iter()
                .any(|g| line.starts_with(g))
        })
        .collect();
    put("available_events", events.as_bytes());
    fs::copy(from.join("notes"), to.join("notes")).unwrap();
    for module in ["kvm", "vfio_ap"] {
        let id = from.join(format!("module-{module}/build-id"));
        fs::copy(id, to.join(format!("build-id-{module}"))).unwrap();
    }
    let Ok(vmlinux) = fs::read(from.join("btf-vmlinux")) else {
        return;
    };
    let vmlinux = Arc::new(Btf::parse(vmlinux).unwrap());
    let modules: Vec<(&str, Btf)> = MODULES
        .into_iter()
        .filter_map(|name| {
            let data = fs::read(from.join(format!("btf-{name}"))).ok()?;
            Some((name, Btf::parse_split(data, &vmlinux).unwrap()))
        })
        .collect();
    // First what modules need of the base, so that the base has it.
    let none = HashMap::new();
    let mut base = Reducer {
        btf: &vmlinux,
        base: &none,
        kept: BTreeSet::new(),
    };
    for (_, btf) in &modules {
        for outer in Field::ALL.iter().map(|field| field.outer()) {
            for (id, t) in btf.own(outer.as_bytes()) {
                keep_in_base(btf, id, t.kind, &mut base, 0);
            }
        }
    }
    let needed = base.kept;
    let (data, numbers, strings) = {
        let mut reducer = Reducer {
            btf: &vmlinux,
            base: &none,
            kept: needed,
        };
        let (_, own, _) = reduce(&vmlinux, &none, 1, 0);
        reducer.kept.extend(own.into_keys());
        reducer.write(1, 0)
    };
    put("btf-vmlinux", &data);
    let first = 1 + numbers.len() as u32;
    for (name, btf) in &modules {
        let (data, kept, _) = reduce(btf, &numbers, first, strings);
        if !kept.is_empty() {
            put(&format!("btf-{name}"), &data);
        }
    }
}

/// Keeps in the base what a module's type has inside of it.
fn keep_in_base(btf: &Btf, id: u32, outer: u8, base: &mut Reducer<'_>, depth: u32) {
    if id < btf.first {
        base.keep(id);
        return;
    }
    let Some((_, t)) = btf.get(id) else { return };
    if depth > 12 || outer == kind::PTR {
        return;
    }
    match t.kind {
        kind::STRUCT | kind::UNION => {
            for index in 0..usize::from(t.length) {
                let member = btf.word(t.at + TYPE + 12 * index + 4).unwrap();
                keep_in_base(btf, member, t.kind, base, depth + 1);
            }
        }
        kind::ARRAY => {
            let element = btf.word(t.at + TYPE).unwrap();
            keep_in_base(btf, element, t.kind, base, depth + 1);
        }
        kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
            keep_in_base(btf, t.size_or_target, t.kind, base, depth + 1);
        }
        _ => {}
    }
}
