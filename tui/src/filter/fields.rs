//! The fields of rows: which there are, and what each is called.

/// Fields with text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextField {
    /// Lock class, or module of an entry point.
    Class,
    /// Kind of lock.
    Kind,
    /// What the row is called on screen.
    Name,
    /// Who holds the lock.
    Holder,
    /// A task, or several.
    Task,
    /// The guest, by its number or its name.
    Guest,
    /// The UUID of the mdev that a call acted on.
    Mdev,
}

/// Fields with times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeField {
    /// Waits.
    Wait,
    /// Holds.
    Hold,
    /// Latencies of entry points.
    Latency,
}

/// What the rows of a view have. Without it, a term for what they lack would match nothing, and look like an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// Fields with text.
    pub text: &'static [TextField],
    /// Fields with times.
    pub time: &'static [TimeField],
}

impl Fields {
    /// All there are.
    pub const ALL: Self = Self {
        text: &TextField::ALL,
        time: &TimeField::ALL,
    };

    /// Words of all of them.
    pub(super) fn names(self) -> String {
        let time = self.time.iter().map(|field| field.name());
        let names: Vec<&str> = words(self.text).chain(time).collect();
        names.join(" ")
    }
}

fn words(fields: &[TextField]) -> impl Iterator<Item = &'static str> {
    fields.iter().map(|field| field.words().name)
}

/// What a field is called.
struct Words {
    /// In a filter.
    name: &'static str,
    /// What a view has none of.
    plural: &'static str,
    /// In a filter too.
    also: Option<&'static str>,
}

const fn called(name: &'static str, plural: &'static str) -> Words {
    Words {
        name,
        plural,
        also: None,
    }
}

impl TextField {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 7] = [
        Self::Class,
        Self::Kind,
        Self::Name,
        Self::Holder,
        Self::Task,
        Self::Guest,
        Self::Mdev,
    ];

    const fn words(self) -> Words {
        match self {
            Self::Class => called("class", "classes"),
            Self::Kind => called("kind", "kinds"),
            Self::Name => called("name", "names"),
            Self::Holder => Words {
                also: Some("holder"),
                ..called("owner", "owners")
            },
            Self::Task => called("task", "tasks"),
            Self::Guest => called("guest", "guests"),
            Self::Mdev => called("mdev", "mdevs"),
        }
    }

    /// The field that a word stands for; else which words there are.
    pub(super) fn named(word: &str) -> Result<Self, String> {
        let lower = word.to_ascii_lowercase();
        let is = |field: &Self| {
            let words = field.words();
            words.name == lower || words.also == Some(lower.as_str())
        };
        Self::ALL.into_iter().find(is).ok_or_else(|| {
            let there_are: Vec<&str> = words(&Self::ALL).collect();
            format!("no field `{word}`: {}", there_are.join(" "))
        })
    }

    /// What a view has none of.
    pub(super) const fn plural(self) -> &'static str {
        self.words().plural
    }
}

impl TimeField {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Wait, Self::Hold, Self::Latency];

    const fn words(self) -> Words {
        match self {
            Self::Wait => called("wait", "waits"),
            Self::Hold => called("hold", "holds"),
            Self::Latency => called("latency", "latencies"),
        }
    }

    const fn name(self) -> &'static str {
        self.words().name
    }

    /// The field that a word, in lower case, stands for.
    pub(super) fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == word)
    }

    /// What a view has none of.
    pub(super) const fn plural(self) -> &'static str {
        self.words().plural
    }
}
