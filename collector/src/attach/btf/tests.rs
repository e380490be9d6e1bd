//! BTF made by hand, in both byte orders.

use super::*;

/// Writes BTF.
pub(crate) struct Writer {
    big: bool,
    types: Vec<u8>,
    strings: Vec<u8>,
    first_string: u32,
    next: u32,
}

impl Writer {
    pub(crate) fn new(big: bool) -> Self {
        Self {
            big,
            types: Vec::new(),
            strings: vec![0],
            first_string: 0,
            next: 1,
        }
    }

    fn after(base: &Btf) -> Self {
        Self {
            big: base.big,
            types: Vec::new(),
            strings: Vec::new(),
            first_string: base.strings.len() as u32,
            next: base.end(),
        }
    }

    fn word(&mut self, word: u32) {
        self.types.extend(if self.big {
            word.to_be_bytes()
        } else {
            word.to_le_bytes()
        });
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.first_string + self.strings.len() as u32;
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        at
    }

    pub(crate) fn add(&mut self, name: &str, info: u32, size: u32, more: &[u32]) -> u32 {
        let name = self.name(name);
        for word in [name, info, size].iter().chain(more) {
            self.word(*word);
        }
        self.next += 1;
        self.next - 1
    }

    pub(crate) fn int(&mut self, name: &str, bytes: u32) -> u32 {
        self.add(name, u32::from(kind::INT) << 24, bytes, &[8 * bytes])
    }

    /// Members: name, type, bits.
    pub(crate) fn composite(
        &mut self,
        kind: u8,
        name: &str,
        size: u32,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let mut more = Vec::new();
        for (name, t, bits) in members {
            let name = self.name(name);
            more.extend([name, *t, *bits]);
        }
        let info = u32::from(kind) << 24 | members.len() as u32;
        self.add(name, info, size, &more)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut all = Self::new(self.big);
        let magic = if self.big {
            MAGIC.to_be_bytes()
        } else {
            MAGIC.to_le_bytes()
        };
        all.types.extend(magic);
        all.types.extend([1, 0]);
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [24, 0, types, types, strings] {
            all.word(word);
        }
        all.types.extend(&self.types);
        all.types.extend(&self.strings);
        all.types
    }
}

/// A struct with everything that a path can lead through.
fn sample(big: bool) -> Writer {
    let mut w = Writer::new(big);
    let long = w.int("long", 8);
    let inner = w.composite(
        kind::STRUCT,
        "inner",
        24,
        &[("a", long, 0), ("regs", long + 2, 64)],
    );
    assert_eq!(inner, long + 1);
    let array = w.add("", u32::from(kind::ARRAY) << 24, 0, &[long, long, 2]);
    let alias = w.add("inner_t", u32::from(kind::TYPEDEF) << 24, inner, &[]);
    let constant = w.add("", u32::from(kind::CONST) << 24, alias, &[]);
    let pointer = w.add("", u32::from(kind::PTR) << 24, inner, &[]);
    let anonymous = w.composite(
        kind::UNION,
        "",
        24,
        &[("first", long, 0), ("nested", constant, 0)],
    );
    w.composite(
        kind::STRUCT,
        "outer",
        64,
        &[
            ("x", long, 0),
            ("", anonymous, 64),
            ("p", pointer, 256),
            ("array", array, 320),
        ],
    );
    // kind_flag: 3 bits at bit 5, then a whole number at bit 64.
    let info = 1 << 31 | u32::from(kind::STRUCT) << 24 | 2;
    let (bits, whole) = (w.name("bits"), w.name("whole"));
    w.add(
        "flags",
        info,
        16,
        &[bits, long, 3 << 24 | 5, whole, long, 64],
    );
    w
}

#[test]
fn paths_lead_through_unions_typedefs_and_members_without_name() {
    for big in [true, false] {
        let btf = Btf::parse(sample(big).bytes()).unwrap();
        for (path, offset) in [
            ("x", 0),
            ("first", 8),
            ("nested.a", 8),
            ("nested.regs", 16),
            ("p", 32),
            ("array", 40),
        ] {
            assert_eq!(btf.offset_of("outer", path), Ok(offset), "{path}");
        }
        assert_eq!(btf.size_of("outer"), Ok(64));
        assert_eq!(btf.offset_of("flags", "whole"), Ok(8));
        assert!(btf.has_struct("inner") && !btf.has_struct("inner_t"));
    }
}

#[test]
fn what_is_no_byte_offset_is_refused() {
    let btf = Btf::parse(sample(true).bytes()).unwrap();
    assert_eq!(
        btf.offset_of("flags", "bits"),
        Err(PathError::Bitfield("flags.bits".into()))
    );
    for path in ["p.a", "x.a", "array.a"] {
        assert!(
            matches!(btf.offset_of("outer", path), Err(PathError::NotAStruct(_))),
            "{path}"
        );
    }
    let none = btf.offset_of("outer", "nested.none").unwrap_err();
    assert!(none.is_absent());
    assert_eq!(none.to_string(), "struct outer.nested has no none");
    let unknown = btf.offset_of("other", "x").unwrap_err();
    assert!(!unknown.is_absent());
}

#[test]
fn a_module_continues_the_base() {
    for big in [true, false] {
        let base = Arc::new(Btf::parse(sample(big).bytes()).unwrap());
        let mut w = Writer::after(&base);
        let own = w.composite(
            kind::STRUCT,
            "module",
            72,
            &[("o", base.end() - 2, 0), ("tail", 1, 512)],
        );
        assert_eq!(own, base.end());
        let bytes = w.bytes();
        assert!(is_split(&bytes) && !is_split(&sample(big).bytes()));
        assert_eq!(
            Btf::parse(bytes.clone()).unwrap_err(),
            BtfError::NoBase,
            "a module's types alone"
        );
        let btf = Btf::parse_split(bytes, &base).unwrap();
        assert_eq!(btf.offset_of("module", "tail"), Ok(64));
        assert_eq!(btf.offset_of("module", "o.nested.regs"), Ok(16));
        assert_eq!(btf.offset_of("outer", "p"), Ok(32));
        assert!(btf.defines("module") && !btf.defines("outer"));
        let other = Arc::new(Btf::parse(sample(!big).bytes()).unwrap());
        assert_eq!(
            Btf::parse_split(Writer::after(&base).bytes(), &other).unwrap_err(),
            BtfError::BaseOrder
        );
    }
}

#[test]
fn types_in_circles_end() {
    let mut w = Writer::new(true);
    // A struct whose member without a name is the struct itself, a typedef of itself, and 2^20 ways down.
    w.composite(kind::STRUCT, "self", 8, &[("", 1, 0), ("", 1, 0)]);
    w.add("t", u32::from(kind::TYPEDEF) << 24, 2, &[]);
    w.composite(kind::STRUCT, "user", 8, &[("m", 2, 0)]);
    for level in 0..20 {
        w.composite(
            kind::STRUCT,
            &format!("level{level}"),
            8,
            &[("", 5 + level, 0), ("", 5 + level, 0)],
        );
    }
    let btf = Btf::parse(w.bytes()).unwrap();
    for (outer, path) in [("self", "none"), ("user", "m.none"), ("level0", "none")] {
        assert!(
            matches!(
                btf.offset_of(outer, path),
                Err(PathError::Unreadable(_) | PathError::NoMember { .. })
            ),
            "{outer}"
        );
    }
    assert!(matches!(
        btf.offset_of("self", "none"),
        Err(PathError::Unreadable(_))
    ));
}

#[test]
fn two_structs_of_a_name_are_told() {
    let mut w = Writer::new(true);
    let long = w.int("long", 8);
    w.composite(
        kind::STRUCT,
        "twice",
        16,
        &[("a", long, 0), ("b", long, 64)],
    );
    w.composite(
        kind::STRUCT,
        "twice",
        24,
        &[("a", long, 0), ("b", long, 128)],
    );
    let btf = Btf::parse(w.bytes()).unwrap();
    assert_eq!(btf.offset_of("twice", "a"), Ok(0));
    assert_eq!(
        btf.offset_of("twice", "b"),
        Err(PathError::Ambiguous("twice".into()))
    );
    assert!(btf.size_of("twice").is_err());
}

#[test]
fn damage_is_an_error_and_no_panic() {
    let whole = sample(true).bytes();
    for length in 0..whole.len() {
        assert!(Btf::parse(whole[..length].to_vec()).is_err(), "{length}");
    }
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            if let Ok(btf) = Btf::parse(damaged) {
                let _ = btf.offset_of("outer", "nested.regs");
                let _ = btf.size_of("outer");
            }
        }
    }
    assert_eq!(Btf::parse(b"ELF".to_vec()).unwrap_err(), BtfError::Magic);
    let mut next = whole;
    next[2] = 2;
    assert_eq!(Btf::parse(next).unwrap_err(), BtfError::Version(2));
}

/// Writes seeds for the fuzz target: `cargo test -p apscope-collector --lib write_seeds -- --ignored`.
#[test]
#[ignore = "writes the fuzz target's seeds"]
fn write_seeds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/btf");
    std::fs::create_dir_all(folder).unwrap();
    let put = |name: &str, data: Vec<u8>| std::fs::write(format!("{folder}/{name}"), data).unwrap();
    for (name, big) in [("big", true), ("little", false)] {
        let vmlinux = driver(Writer::new(big), "mutex");
        let base = Arc::new(Btf::parse(vmlinux.clone()).unwrap());
        let module = driver(Writer::after(&base), "ap_matrix_mdev");
        let mut split = (vmlinux.len() as u16).to_be_bytes().to_vec();
        split.extend(&vmlinux);
        split.extend(&module);
        put(&format!("{name}-paths"), sample(big).bytes());
        put(&format!("{name}-alone"), vmlinux);
        put(&format!("{name}-split"), split);
    }
}

/// Structs that are looked up, with members that are.
fn driver(mut w: Writer, first: &str) -> Vec<u8> {
    let long = w.int("long", 8);
    let crypto = w.composite(
        kind::STRUCT,
        "",
        16,
        &[("pqap_hook_rwsem", long, 0), ("pqap_hook", long, 64)],
    );
    let arch = w.composite(kind::STRUCT, "kvm_arch", 16, &[("crypto", crypto, 0)]);
    w.composite(
        kind::STRUCT,
        first,
        32,
        &[
            ("owner", long, 0),
            ("kvm", long, 64),
            ("kvm_busy", long, 128),
        ],
    );
    w.composite(
        kind::STRUCT,
        "kvm",
        24,
        &[("lock", long, 0), ("arch", arch, 64)],
    );
    w.add("mutex_lock", u32::from(kind::FUNC) << 24, 0, &[]);
    w.bytes()
}
