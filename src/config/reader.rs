//! Layers of settings and what is wrong with them.
//!
//! File, variables and arguments are laid over each other by path; every value keeps where it came from. A reader takes settings out one by one, notes
//! each mistake beside its source and goes on, so that one run tells all of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::declared::{self, DeclaredIssuer};
use super::lines::Lines;
use super::nearest::nearest;
use super::secret::Exposed;

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File {
        /// Which file.
        path: PathBuf,
        /// Which line, counted from 1; none for the file as a whole.
        line: Option<usize>,
    },
    /// An environment variable of this name.
    Variable(String),
    /// A command-line argument of this name.
    Argument(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Argument(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The settings concerned, each with its source; two when they contradict each other, none when a file or a variable as a whole is wrong.
    pub settings: Vec<(String, Source)>,
    /// What is wrong, without any secret.
    pub why: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (path, source)) in self.settings.iter().enumerate() {
            write!(f, "{}{path} ({source})", if index == 0 { "" } else { " and " })?;
        }
        write!(f, ": {}", self.why)
    }
}

/// Everything that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} mistake{}", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl std::error::Error for Mistakes {}

impl Mistakes {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something is wrong with a setting that begins like this.
    pub fn concern(&self, path: &str) -> bool {
        self.0.iter().flat_map(|mistake| &mistake.settings).any(|(name, _)| name.starts_with(path))
    }
}

/// A value as it stands in its source.
#[derive(Clone, Debug)]
pub(super) enum Raw {
    /// From a variable or an argument: its type is what the setting asks for.
    Untyped(String),
    Text(String),
    Number(i64),
    Truth(bool),
    List(Vec<String>),
    /// A type no setting has.
    Other(&'static str),
    /// Nothing: it notes what a setting asks it for.
    Asked(Rc<RefCell<Option<Kind>>>),
}

/// What a setting asks its value to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Truth,
    List,
    Number {
        /// The least and the most.
        bounds: Option<(i64, i64)>,
    },
    /// One of these.
    Words(Vec<&'static str>),
}

impl Kind {
    fn asked_by<T>(parse: impl Fn(&Raw) -> Result<T, String>) -> Self {
        let asked = Rc::new(RefCell::new(None));
        drop(parse(&Raw::Asked(Rc::clone(&asked))));
        asked.take().unwrap_or(Self::Text)
    }
}

/// A setting as it could be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outline {
    pub(super) path: String,
    pub(super) kind: Kind,
    /// How its default is shown; none where it may be absent.
    pub(super) default: Option<String>,
}

/// Stands in an outline for a name that somebody thinks of.
pub(super) const ANY_NAME: &str = "NAME";

impl Raw {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Untyped(_) | Self::Text(_) => "a string",
            Self::Number(_) => "a whole number",
            Self::Truth(_) => "a boolean",
            Self::List(_) => "a list of strings",
            Self::Other(kind) => kind,
            Self::Asked(_) => "nothing",
        }
    }

    /// Notes what is asked of what is nothing.
    fn refused(&self, kind: Kind, must_be: &str) -> String {
        if let Self::Asked(asked) = self {
            asked.replace(Some(kind));
        }
        format!("must be {must_be}, not {}", self.kind())
    }

    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Self::Untyped(text) | Self::Text(text) => Ok(text),
            Self::Number(_) | Self::Truth(_) | Self::List(_) | Self::Other(_) | Self::Asked(_) => Err(self.refused(Kind::Text, "a string")),
        }
    }

    pub(super) fn number(&self) -> Result<i64, String> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Untyped(text) => text.trim().parse().map_err(|_| format!("must be a whole number, not {text:?}")),
            Self::Text(_) | Self::Truth(_) | Self::List(_) | Self::Other(_) | Self::Asked(_) => {
                Err(self.refused(Kind::Number { bounds: None }, "a whole number"))
            }
        }
    }

    pub(super) fn truth(&self) -> Result<bool, String> {
        match self {
            Self::Truth(truth) => Ok(*truth),
            Self::Untyped(text) => text.trim().parse().map_err(|_| format!("must be true or false, not {text:?}")),
            Self::Text(_) | Self::Number(_) | Self::List(_) | Self::Other(_) | Self::Asked(_) => {
                Err(self.refused(Kind::Truth, "true or false"))
            }
        }
    }

    /// A list; in a variable its members are separated by commas.
    pub(super) fn list(&self) -> Result<Vec<String>, String> {
        match self {
            Self::List(list) => Ok(list.clone()),
            Self::Untyped(text) => Ok(text.split(',').map(str::trim).filter(|member| !member.is_empty()).map(str::to_owned).collect()),
            Self::Text(_) | Self::Number(_) | Self::Truth(_) | Self::Other(_) | Self::Asked(_) => {
                Err(self.refused(Kind::List, "a list of strings"))
            }
        }
    }
}

/// A setting in effect, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its path, such as `http.listen`.
    pub path: String,
    /// Its value, secrets hidden.
    pub shown: String,
    /// Where it came from.
    pub source: Source,
}

/// Whether the layers could be read at all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layers {
    Complete,
    /// Part of the file is missing, so that nothing can be said about what was left out.
    Broken,
}

/// The layers, being read.
pub(super) struct Reader {
    given: BTreeMap<String, (Raw, Source)>,
    known: BTreeSet<String>,
    layers: Layers,
    settings: Vec<Setting>,
    mistakes: Vec<Mistake>,
    declared: Vec<DeclaredIssuer>,
    exposed: Vec<Exposed>,
    outlines: Vec<Outline>,
    names: Names,
}

/// Which tables there are where anybody may think of a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Those that are given.
    Given,
    /// One that stands for all.
    Any,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            given: BTreeMap::new(),
            known: BTreeSet::new(),
            layers: Layers::Complete,
            settings: Vec::new(),
            mistakes: Vec::new(),
            declared: Vec::new(),
            exposed: Vec::new(),
            outlines: Vec::new(),
            names: Names::Given,
        }
    }

    /// One that is given nothing, and asked for what could be given.
    pub(super) fn outlining() -> Self {
        Self { names: Names::Any, ..Self::new() }
    }

    /// Every setting that was asked for.
    pub(super) fn into_outlines(self) -> Vec<Outline> {
        self.outlines
    }

    /// Lays the text of a TOML file over what is there.
    pub(super) fn lay_file(&mut self, file: &Path, text: &str) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let lines = Lines::of_text(text);
        let source = |offset: Option<usize>| Source::File { path: file.to_owned(), line: offset.map(|at| lines.of(at)) };
        if !errors.is_empty() {
            // What a parser recovered from a broken file is a guess; nothing is said about it.
            for error in errors {
                self.file_mistake(source(error.span().map(|span| span.start)), error.message().to_owned());
            }
            return;
        }
        let (declared, mistakes) = declared::read(file, table.get_ref(), &lines);
        self.declared = declared;
        self.mistakes.extend(mistakes);
        let mut leaves = Vec::new();
        flatten("", table.get_ref(), &mut leaves);
        for (path, raw, offset) in leaves {
            self.given.insert(path, (raw, source(Some(offset))));
        }
    }

    /// Takes what the file declares, noting each issuer as it may be shown.
    pub(super) fn declared(&mut self) -> Vec<DeclaredIssuer> {
        let declared = std::mem::take(&mut self.declared);
        for DeclaredIssuer { registration, clients } in &declared {
            self.exposed.extend([registration].into_iter().chain(clients).flat_map(|declaration| declaration.exposed().iter().cloned()));
            let issuer = registration.body.get("issuer").and_then(serde_json::Value::as_str).unwrap_or("(none)");
            let shown = format!("{issuer}, with {} client{}", clients.len(), if clients.len() == 1 { "" } else { "s" });
            self.settings.push(Setting { path: registration.name().to_owned(), shown, source: registration.source("") });
        }
        declared
    }

    /// Notes that the file could not be read as it should.
    pub(super) fn file_mistake(&mut self, source: Source, why: String) {
        self.layers = Layers::Broken;
        self.mistakes.push(Mistake { settings: vec![("file".to_owned(), source)], why });
    }

    /// Lays one value over what is there. Two variables for one setting contradict each other.
    pub(super) fn lay(&mut self, path: &str, value: String, source: Source) {
        let rival = match (self.given.get(path), &source) {
            (Some((_, Source::Variable(first))), Source::Variable(second)) => Some((first.clone(), second.clone())),
            _ => None,
        };
        if let Some((first, second)) = rival {
            let why = "both set the same setting: keep one".to_owned();
            let settings = vec![(path.to_owned(), Source::Variable(first)), (path.to_owned(), Source::Variable(second))];
            self.mistakes.push(Mistake { settings, why });
        }
        self.given.insert(path.to_owned(), (Raw::Untyped(value), source));
    }

    /// Where a setting came from.
    pub(super) fn source(&self, path: &str) -> Source {
        self.given.get(path).map_or(Source::Default, |(_, source)| source.clone())
    }

    /// The names of the tables inside a table: `a` and `b` where `check.a.x` and `check.b.y` are given and it is asked for `check`.
    pub(super) fn tables_in(&self, table: &str) -> Vec<String> {
        if self.names == Names::Any {
            return vec![ANY_NAME.to_owned()];
        }
        let inside = format!("{table}.");
        let names = self.given.keys().filter_map(|path| path.strip_prefix(&inside)?.split_once('.')).map(|(name, _)| name.to_owned());
        names.collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(super) fn is_given(&self, path: &str) -> bool {
        self.given.contains_key(path)
    }

    /// A setting as it was said, where it is a text.
    pub(super) fn said(&self, path: &str) -> Option<&str> {
        self.given.get(path).and_then(|(raw, _)| raw.text().ok())
    }

    /// Notes that others may read the file that a setting names.
    pub(super) fn expose(&mut self, setting: &str) {
        let exposed = self.said(setting).map(|path| Exposed { setting: setting.to_owned(), path: PathBuf::from(path) });
        self.exposed.extend(exposed);
    }

    /// Files with secrets that others may read.
    pub(super) fn exposed(&mut self) -> Vec<Exposed> {
        std::mem::take(&mut self.exposed)
    }

    /// Takes a setting that may be absent.
    pub(super) fn optional<T>(&mut self, path: &str, parse: impl Fn(&Raw) -> Result<T, String>, show: impl Fn(&T) -> String) -> Option<T> {
        self.outline(path, Kind::asked_by(&parse), None);
        let value = self.take(path, parse);
        self.note(path, value.as_ref().map_or_else(|| "(none)".to_owned(), show));
        value
    }

    /// Takes a setting that has a default.
    pub(super) fn or<T>(&mut self, path: &str, default: T, parse: impl Fn(&Raw) -> Result<T, String>, show: impl Fn(&T) -> String) -> T {
        self.outline(path, Kind::asked_by(&parse), Some(show(&default)));
        let value = self.take(path, parse).unwrap_or(default);
        self.note(path, show(&value));
        value
    }

    /// Takes a whole number within bounds.
    pub(super) fn number<T>(&mut self, path: &str, default: T, bounds: RangeInclusive<T>) -> T
    where
        T: Copy + PartialOrd + fmt::Display + TryFrom<i64>,
    {
        let number = self.or(path, default, within(&bounds), T::to_string);
        self.bound(&bounds);
        number
    }

    /// Takes a whole number within bounds that may be absent.
    pub(super) fn number_if_any<T>(&mut self, path: &str, bounds: RangeInclusive<T>) -> Option<T>
    where
        T: Copy + PartialOrd + fmt::Display + TryFrom<i64>,
    {
        let number = self.optional(path, within(&bounds), T::to_string);
        self.bound(&bounds);
        number
    }

    /// Adds its bounds to the outline of the number that was asked for last.
    fn bound<T: fmt::Display>(&mut self, bounds: &RangeInclusive<T>) {
        let number = |bound: &T| bound.to_string().parse::<i64>().ok();
        if let Some(last) = self.outlines.last_mut() {
            last.kind = Kind::Number { bounds: number(bounds.start()).zip(number(bounds.end())) };
        }
    }

    /// Takes a duration whose path ends in `_ms`.
    pub(super) fn millis(&mut self, path: &str, default: u64, bounds: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.number(path, default, bounds))
    }

    /// Takes a duration whose path ends in `_s`.
    pub(super) fn seconds(&mut self, path: &str, default: u64, bounds: RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.number(path, default, bounds))
    }

    /// Takes one of a few words; the first is the default.
    pub(super) fn word<T: Copy + PartialEq>(&mut self, path: &str, default: T, words: &[(&'static str, T)]) -> T {
        let parse = |raw: &Raw| {
            let text = raw.text()?;
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
                let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                format!("must be one of {}, not {text:?}", names.join(", "))
            })
        };
        let show = |value: &T| words.iter().find(|(_, v)| v == value).map_or_else(String::new, |(word, _)| (*word).to_owned());
        let word = self.or(path, default, parse, show);
        if let Some(last) = self.outlines.last_mut() {
            last.kind = Kind::Words(words.iter().map(|(word, _)| *word).collect());
        }
        word
    }

    /// Notes a mistake in one setting.
    pub(super) fn mistake(&mut self, path: &str, why: impl Into<String>) {
        let settings = vec![(path.to_owned(), self.source(path))];
        self.mistakes.push(Mistake { settings, why: why.into() });
    }

    /// Notes that two settings contradict each other, unless one of them is wrong in itself.
    pub(super) fn contradiction(&mut self, first: &str, second: &str, why: impl Into<String>) {
        if self.is_sound(first) && self.is_sound(second) {
            let settings = [first, second].map(|path| (path.to_owned(), self.source(path))).to_vec();
            self.mistakes.push(Mistake { settings, why: why.into() });
        }
    }

    /// Whether a setting's value can be relied on: nothing is wrong with it, and it was not lost with an unreadable file.
    pub(super) fn is_sound(&self, path: &str) -> bool {
        let faulty = self.mistakes.iter().any(|mistake| mistake.settings.iter().any(|(name, _)| name == path));
        !faulty && (self.layers == Layers::Complete || self.is_given(path))
    }

    /// The settings as they are in effect, once nobody asks for more, and everything that is wrong; whatever nobody asked for is unknown.
    pub(super) fn finish(mut self) -> (Vec<Setting>, Mistakes) {
        let unknown: Vec<_> = self.given.keys().filter(|path| !self.known.contains(path.as_str())).cloned().collect();
        for path in unknown {
            let why = self.why_unknown(&path);
            self.mistake(&path, why);
        }
        (self.settings, Mistakes(self.mistakes))
    }

    fn why_unknown(&self, path: &str) -> String {
        let inside = format!("{path}.");
        if self.known.iter().any(|known| known.starts_with(&inside)) {
            return "must be a table".to_owned();
        }
        if path.strip_prefix(declared::ISSUERS).is_some_and(|rest| rest.starts_with(['.', '_'])) {
            return "is not a setting: issuers and clients are declared in the file alone".to_owned();
        }
        let free = self.known.iter().map(String::as_str).filter(|known| !self.is_given(known));
        match (nearest(path, free), self.source(path)) {
            (Some(meant), Source::Variable(_)) => format!("is not a setting: did you mean {}?", variable(meant)),
            (Some(meant), _) => format!("is not a setting: did you mean {meant}?"),
            (None, _) => "is not a setting".to_owned(),
        }
    }

    fn take<T>(&mut self, path: &str, parse: impl Fn(&Raw) -> Result<T, String>) -> Option<T> {
        self.known.insert(path.to_owned());
        match parse(&self.given.get(path)?.0) {
            Ok(value) => Some(value),
            Err(why) => {
                self.mistake(path, why);
                None
            }
        }
    }

    fn outline(&mut self, path: &str, kind: Kind, default: Option<String>) {
        self.outlines.push(Outline { path: path.to_owned(), kind, default });
    }

    fn note(&mut self, path: &str, shown: String) {
        let source = self.source(path);
        self.settings.push(Setting { path: path.to_owned(), shown, source });
    }
}

fn within<T>(bounds: &RangeInclusive<T>) -> impl Fn(&Raw) -> Result<T, String>
where
    T: Copy + PartialOrd + fmt::Display + TryFrom<i64>,
{
    |raw| {
        let number = raw.number()?;
        let value = T::try_from(number).ok().filter(|value| bounds.contains(value));
        value.ok_or_else(|| format!("must be {} to {}, not {number}", bounds.start(), bounds.end()))
    }
}

/// The variable of a setting.
pub(super) fn variable(path: &str) -> String {
    format!("LOGOUTD_{}", path.to_ascii_uppercase().replace('.', "__"))
}

/// The leaves of a table by their dotted paths, each with the offset of its key; but for what is declared, which holds no settings.
fn flatten(prefix: &str, table: &DeTable<'_>, leaves: &mut Vec<(String, Raw, usize)>) {
    for (key, value) in table.iter().filter(|(key, _)| !prefix.is_empty() || key.get_ref() != declared::ISSUERS) {
        let path = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        match value.get_ref().as_table() {
            Some(inner) => flatten(&path, inner, leaves),
            None => leaves.push((path, raw(value.get_ref()), key.span().start)),
        }
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).map_or(Raw::Other("so large a number"), Raw::Number)
        }
        DeValue::Boolean(truth) => Raw::Truth(*truth),
        DeValue::Array(members) => members.iter().map(string_member).collect::<Option<_>>().map_or(Raw::Other("a list of that"), Raw::List),
        DeValue::Float(_) => Raw::Other("a fraction"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}

fn string_member(member: &Spanned<DeValue<'_>>) -> Option<String> {
    member.get_ref().as_str().map(str::to_owned)
}
