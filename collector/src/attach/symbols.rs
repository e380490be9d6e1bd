//! The kernel's symbol table: `/proc/kallsyms` as data, and how a name of the attach table is found in it.
//!
//! Takes the text; gives addresses, kinds and modules, and for a name of the source code the symbol that is it or a
//! clone of it that the compiler made. Does not know what is probed, nor whether it can be.

use std::io::BufRead;

use super::lines::{self, Modules, ReadError, bracketed, key};

/// The symbol table.
#[derive(Debug, Default)]
pub struct Symbols {
    /// All names, one after the other.
    names: String,
    /// Sorted by the key of the name's stem, then by name, module and address.
    entries: Vec<Entry>,
    modules: Modules,
    hidden: bool,
    malformed: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    address: u64,
    /// Of the [`stem`].
    key: u32,
    start: u32,
    length: u16,
    module: u16,
    kind: u8,
}

/// One symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Its name, suffixes of the compiler included.
    pub name: &'a str,
    /// Its module; `None` is vmlinux.
    pub module: Option<&'a str>,
    /// Its address, 0 where the kernel hides addresses.
    pub address: u64,
    /// The letter of nm(1): `t` and `T` are functions.
    pub kind: char,
}

impl Symbol<'_> {
    /// Whether this is a function.
    #[must_use]
    pub const fn is_function(&self) -> bool {
        matches!(self.kind, 't' | 'T' | 'w' | 'W')
    }
}

/// A function of the source code, found in the symbol table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<'a> {
    /// The symbol.
    pub symbol: Symbol<'a>,
    /// The suffix, when it is a clone (`.isra.0`, with its dot); `None` for the function as it is in the source.
    pub suffix: Option<&'a str>,
    /// Symbols of the same name in the same module; 1 where it is unique.
    pub in_module: usize,
    /// Functions of the same name in all modules and vmlinux.
    pub everywhere: usize,
}

impl Found<'_> {
    /// What the clone's arguments are, for people; `None` where they are the source's.
    ///
    /// GCC: `.constprop` has lost the arguments that every caller passes as the same constant; `.isra` has lost unused
    /// ones, and has values in the place of pointers (ipa-sra); `.part` is the cold rest of a function that was split,
    /// reached only past the test at its head, with the arguments that the rest needs. All of them keep the order of
    /// what stays.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let suffix = self.suffix?;
        let mut parts = Vec::new();
        if suffix.contains(".part.") {
            parts.push("only the part of the function behind its first test");
        }
        if suffix.contains(".isra.") {
            parts.push("arguments may be missing, or be values instead of pointers");
        }
        if suffix.contains(".constprop.") {
            parts.push("arguments that are constant are missing");
        }
        if parts.is_empty() {
            parts.push("a clone of the compiler with unknown arguments");
        }
        Some(format!("{suffix}: {}", parts.join("; ")))
    }

    /// Whether the symbol's name alone names this function in the whole kernel. Otherwise a probe needs the module or
    /// the address.
    #[must_use]
    pub const fn unique(&self) -> bool {
        self.everywhere == 1
    }
}

impl Symbols {
    /// Reads `/proc/kallsyms`: lines `address kind name [module]`. Lines of another form are counted and left out.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn parse(kallsyms: impl BufRead) -> Result<Self, ReadError> {
        let mut symbols = Self::default();
        lines::for_each(kallsyms, |line| symbols.add(line))?;
        symbols.hidden =
            !symbols.entries.is_empty() && symbols.entries.iter().all(|e| e.address == 0);
        let names = std::mem::take(&mut symbols.names);
        let of = |e: &Entry| &names[e.start as usize..][..usize::from(e.length)];
        symbols.entries.sort_unstable_by(|a, b| {
            a.key
                .cmp(&b.key)
                .then_with(|| (of(a), a.module, a.address).cmp(&(of(b), b.module, b.address)))
        });
        symbols.names = names;
        Ok(symbols)
    }

    fn add(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let parsed = (|| {
            let address = words.next()?;
            let kind = words.next()?;
            let name = words.next()?;
            let module = match words.next() {
                Some(word) => Some(bracketed(word)?),
                None => None,
            };
            let [kind] = *kind.as_bytes() else {
                return None;
            };
            let address = u64::from_str_radix(address, 16).ok()?;
            Some((address, kind, name, module))
        })();
        let Some((address, kind, name, module)) = parsed else {
            self.malformed += usize::from(!line.trim().is_empty());
            return;
        };
        // Both fit: a line has at most 1,024 bytes and a file 2^28.
        let (Ok(start), Ok(length)) = (u32::try_from(self.names.len()), u16::try_from(name.len()))
        else {
            self.malformed += 1;
            return;
        };
        self.names.push_str(name);
        let module = self.modules.number(module);
        self.entries.push(Entry {
            address,
            key: key(stem(name).as_bytes()),
            start,
            length,
            module,
            kind,
        });
    }

    /// Bytes of memory, the modules' names apart.
    #[cfg(feature = "fuzzing")]
    pub(super) const fn memory(&self) -> usize {
        self.names.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Number of symbols.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no symbol.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether every address reads as 0: `kptr_restrict` is 2, or is 1 and CAP_SYSLOG is missing (kallsyms_show_value,
    /// kernel/ksyms_common.c). Names and modules are then true, addresses are not.
    #[must_use]
    pub const fn addresses_hidden(&self) -> bool {
        self.hidden
    }

    /// Lines that were left out because they have another form.
    #[must_use]
    pub const fn malformed(&self) -> usize {
        self.malformed
    }

    /// Whether a module has any symbol.
    #[must_use]
    pub fn has_module(&self, module: &str) -> bool {
        self.modules.find(Some(module)).is_some()
    }

    fn name(&self, entry: &Entry) -> &str {
        &self.names[entry.start as usize..][..usize::from(entry.length)]
    }

    fn symbol<'a>(&'a self, entry: &Entry) -> Symbol<'a> {
        Symbol {
            name: self.name(entry),
            module: self.modules.name(entry.module),
            address: entry.address,
            kind: char::from(entry.kind),
        }
    }

    /// Symbols whose names have a stem, sorted by name, and perhaps others between them.
    fn near(&self, stem: &str) -> &[Entry] {
        let key = key(stem.as_bytes());
        let start = self.entries.partition_point(|e| e.key < key);
        let rest = &self.entries[start..];
        &rest[..rest.partition_point(|e| e.key <= key)]
    }

    /// All symbols of a name, of every module.
    pub fn named<'a>(&'a self, name: &str) -> impl Iterator<Item = Symbol<'a>> {
        let near = self.near(stem(name));
        let start = near.partition_point(|e| self.name(e) < name);
        let rest = &near[start..];
        let end = rest.partition_point(|e| self.name(e) <= name);
        rest[..end].iter().map(|e| self.symbol(e))
    }

    /// The symbol of a variable (any kind but a function) in a module; `None` is vmlinux.
    #[must_use]
    pub fn data(&self, module: Option<&str>, name: &str) -> Option<Symbol<'_>> {
        self.named(name)
            .find(|s| s.module == module && !s.is_function())
    }

    /// The function of a name in a module; `None` is vmlinux. Where the name itself is missing, a clone that the
    /// compiler made of it.
    #[must_use]
    pub fn function(&self, module: Option<&str>, name: &str) -> Option<Found<'_>> {
        self.exact(module, name)
            .or_else(|| self.clones(module, name).into_iter().next())
    }

    /// The function of exactly this name in a module.
    #[must_use]
    pub fn exact(&self, module: Option<&str>, name: &str) -> Option<Found<'_>> {
        self.found(module, name, None)
    }

    fn found<'a>(
        &'a self,
        module: Option<&str>,
        name: &str,
        suffix: Option<&'a str>,
    ) -> Option<Found<'a>> {
        let functions = || self.named(name).filter(Symbol::is_function);
        let mut here = functions().filter(|s| s.module == module);
        let symbol = here.next()?;
        Some(Found {
            symbol,
            suffix,
            in_module: 1 + here.count(),
            everywhere: functions().count(),
        })
    }

    /// Clones of a function in a module, the one with the fewest changes first. `.cold` is never among them: it is not
    /// a function but the unlikely blocks of one.
    #[must_use]
    pub fn clones<'a>(&'a self, module: Option<&str>, name: &str) -> Vec<Found<'a>> {
        let near = self.near(stem(name)).iter();
        let mut all: Vec<Found<'a>> = near
            .map(|e| self.symbol(e))
            .filter(|s| s.module == module && s.is_function())
            .filter_map(|s| {
                let suffix = s.name.strip_prefix(name)?;
                is_clone(suffix).then_some((s.name, suffix))
            })
            .filter_map(|(full, suffix)| self.found(module, full, Some(suffix)))
            .collect();
        all.dedup_by(|a, b| a.symbol.name == b.symbol.name);
        all.sort_by_key(|f| (f.suffix.map_or(0, rank), f.symbol.name.len()));
        all
    }
}

/// A name without what the compiler has put behind it: up to its first dot.
fn stem(name: &str) -> &str {
    name.split_once('.').map_or(name, |(stem, _)| stem)
}

/// Whether a suffix is a chain of `.part.N`, `.constprop.N` and `.isra.N`.
fn is_clone(suffix: &str) -> bool {
    let Some(rest) = suffix.strip_prefix('.') else {
        return false;
    };
    let mut words = rest.split('.');
    while let Some(kind) = words.next() {
        let number = words.next().unwrap_or_default();
        if !matches!(kind, "part" | "constprop" | "isra")
            || number.is_empty()
            || !number.bytes().all(|b| b.is_ascii_digit())
        {
            return false;
        }
    }
    true
}

/// How much a clone differs from its function: a `.part` does not even run on every call.
fn rank(suffix: &str) -> u8 {
    u8::from(suffix.contains(".constprop."))
        + 2 * u8::from(suffix.contains(".isra."))
        + 4 * u8::from(suffix.contains(".part."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
0000000000100000 T mutex_lock
0000000000100100 t name_show
0000000000100200 t name_show
000003ff80000000 t handle_pqap\t[vfio_ap]
000003ff80000100 t handle_pqap.cold\t[vfio_ap]
000003ff80000200 t reset_queue.part.0.constprop.0\t[vfio_ap]
000003ff80000300 t reset_qlist.isra.0\t[vfio_ap]
000003ff80000310 t reset_qlist.constprop.1\t[vfio_ap]
000003ff80000400 b matrix_dev\t[vfio_ap]
000003ff81000000 t handle_pqap\t[kvm]
000003ff81000100 t only_cold.cold\t[kvm]
000003ff81000200 t open_device.llvm.123\t[kvm]
";

    fn table() -> Symbols {
        Symbols::parse(TABLE.as_bytes()).unwrap()
    }

    #[test]
    fn the_module_tells_two_functions_of_a_name_apart() {
        let symbols = table();
        for (module, address) in [("vfio_ap", 0x3ff_8000_0000), ("kvm", 0x3ff_8100_0000)] {
            let found = symbols.function(Some(module), "handle_pqap").unwrap();
            assert_eq!(found.symbol.address, address);
            assert_eq!((found.in_module, found.everywhere), (1, 2));
            assert!(!found.unique());
            assert_eq!(found.note(), None);
        }
        assert_eq!(symbols.function(None, "handle_pqap"), None);
        assert!(symbols.function(None, "mutex_lock").unwrap().unique());
        assert_eq!(symbols.function(None, "name_show").unwrap().in_module, 2);
    }

    #[test]
    fn a_clone_says_what_it_may_have_lost() {
        let symbols = table();
        let queue = symbols.function(Some("vfio_ap"), "reset_queue").unwrap();
        assert_eq!(queue.suffix, Some(".part.0.constprop.0"));
        let note = queue.note().unwrap();
        assert!(
            note.contains("behind its first test") && note.contains("constant"),
            "{note}"
        );
        // Losing constants is less than losing pointers.
        let list = symbols.function(Some("vfio_ap"), "reset_qlist").unwrap();
        assert_eq!(list.suffix, Some(".constprop.1"));
        assert_eq!(symbols.clones(Some("vfio_ap"), "reset_qlist").len(), 2);
    }

    #[test]
    fn cold_parts_and_unknown_suffixes_are_no_functions() {
        let symbols = table();
        assert_eq!(symbols.function(Some("kvm"), "only_cold"), None);
        assert_eq!(symbols.function(Some("kvm"), "open_device"), None);
        assert!(!is_clone(".isra"));
        assert!(!is_clone(".isra.0.cold"));
        assert!(!is_clone("_suffix.isra.0"));
        assert!(is_clone(".isra.0.part.12"));
    }

    #[test]
    fn variables_are_not_functions() {
        let symbols = table();
        let matrix = symbols.data(Some("vfio_ap"), "matrix_dev").unwrap();
        assert_eq!(matrix.address, 0x3ff_8000_0400);
        assert_eq!(symbols.function(Some("vfio_ap"), "matrix_dev"), None);
        assert_eq!(symbols.data(None, "mutex_lock"), None);
    }

    #[test]
    fn hidden_addresses_are_noticed() {
        assert!(!table().addresses_hidden());
        let hidden = "0000000000000000 T mutex_lock\n0000000000000000 t handle_pqap\t[vfio_ap]\n";
        let symbols = Symbols::parse(hidden.as_bytes()).unwrap();
        assert!(symbols.addresses_hidden());
        assert!(symbols.function(Some("vfio_ap"), "handle_pqap").is_some());
        assert!(!Symbols::default().addresses_hidden());
    }

    #[test]
    fn other_lines_are_counted() {
        let text = "zz T a\n1 TT b\n1 T\n1 T c d\n\n1 T e [m]\n";
        let symbols = Symbols::parse(text.as_bytes()).unwrap();
        assert_eq!((symbols.len(), symbols.malformed()), (1, 4));
        assert!(symbols.has_module("m") && !symbols.has_module("d"));
    }
}
