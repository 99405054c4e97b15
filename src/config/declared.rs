//! `[[issuers]]` and `[[issuers.clients]]`: registrations that the file declares.
//!
//! Owns where each of their members stands, and the files their secrets are read from. What a member means is the registry's to say, by the types its API
//! has: here a registration is JSON, as it would be posted. Variables and arguments cannot reach into a list, so the file alone declares.
//! TOML has no null, so a secret that shall be removed is `false`; one that is left out stays, as it does by the API.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::lines::Lines;
use super::reader::{Mistake, Source};
use super::secret::{Exposed, Readers};
use super::secret_text;

/// The one table of the file that holds no settings.
pub(super) const ISSUERS: &str = "issuers";
const CLIENTS: &str = "clients";

/// Members that may be said as `<member>_file`, the path of a file that holds them. So may every header of `delivery.headers`.
pub const FROM_FILES: [&str; 7] =
    ["ca_pem", "client_cert_pem", "client_key_pem", "client_secret", "password", "provider_client_secret", "token"];
/// Those of them that anybody may know.
const PUBLIC: [&str; 2] = ["ca_pem", "client_cert_pem"];
/// What makes a member the path of a file.
pub const FILE_SUFFIX: &str = "_file";
/// Secrets that stay where they are left out, and that `false` removes.
pub const REMOVABLE: [&str; 3] = ["client_secret", "headers", "provider_client_secret"];
const HEADERS: &str = "/delivery/headers";
/// What is passed on as it is, or belongs to somebody else: names in there are not ours.
const FREE: [&str; 3] = ["/provider_logout/body", "/provider_logout/headers", "/jwks"];

/// An issuer of the file, and the clients declared with it.
#[derive(Clone, Debug)]
pub struct DeclaredIssuer {
    /// The issuer itself, without its clients.
    pub registration: Declaration,
    /// Its clients.
    pub clients: Vec<Declaration>,
}

/// One registration as it was said.
#[derive(Clone)]
pub struct Declaration {
    /// What would be posted. It holds secrets.
    pub body: Value,
    name: String,
    file: PathBuf,
    /// The line of every member, by its JSON pointer; that of the whole by the empty one.
    lines: BTreeMap<String, usize>,
    exposed: Vec<Exposed>,
}

impl fmt::Debug for Declaration {
    /// Without the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Declaration").field("name", &self.name).field("source", &self.source("")).finish_non_exhaustive()
    }
}

impl Declaration {
    /// What it is called where settings are named, such as `issuers[main].clients[wiki]`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The files of its secrets that others may read.
    pub(super) fn exposed(&self) -> &[Exposed] {
        &self.exposed
    }

    /// Where a member stands, by its JSON pointer, or else what it would be a part of.
    pub fn source(&self, pointer: &str) -> Source {
        let line = std::iter::successors(Some(pointer), |at| at.rsplit_once('/').map(|(outer, _)| outer)).find_map(|at| self.lines.get(at));
        Source::File { path: self.file.clone(), line: line.copied() }
    }

    /// A mistake in one of its members. Of a secret nothing is repeated.
    pub fn mistake(&self, pointer: &str, why: impl Into<String>) -> Mistake {
        let why = why.into();
        let repeats = why.starts_with("invalid type: ") && is_secret(pointer);
        Mistake { settings: vec![self.at(pointer)], why: if repeats { "must be a string".to_owned() } else { why } }
    }

    fn at(&self, pointer: &str) -> (String, Source) {
        (format!("{}{}", self.name, dotted(pointer)), self.source(pointer))
    }

    fn text(&self, member: &str) -> Option<&str> {
        self.body.get(member)?.as_str()
    }
}

/// A JSON pointer as the file would say it: `.delivery.retry_statuses[1]`.
fn dotted(pointer: &str) -> String {
    let part = |part: &str| match part.parse::<usize>() {
        Ok(index) => format!("[{}]", index + 1),
        Err(_) => format!(".{}", part.replace("~1", "/").replace("~0", "~")),
    };
    pointer.split('/').skip(1).map(part).collect()
}

/// Everything the file declares, and what is wrong with how it does.
pub(super) fn read(file: &Path, table: &DeTable<'_>, lines: &Lines) -> (Vec<DeclaredIssuer>, Vec<Mistake>) {
    let mut mistakes = Vec::new();
    let mut found = Vec::new();
    for (key, value) in table.iter().filter(|(key, _)| key.get_ref() == ISSUERS) {
        let place = Place { file, lines };
        let whole = (ISSUERS.to_owned(), place.source(key.span().start));
        match tables(value) {
            Some(tables) => found.extend(tables.into_iter().enumerate().map(|(index, table)| place.issuer(index, table, &mut mistakes))),
            None => {
                mistakes.push(Mistake { settings: vec![whole], why: "must be [[issuers]], in two pairs of brackets, once for each".into() })
            }
        }
    }
    refuse_twins(&found, &mut mistakes);
    (found, mistakes)
}

/// The tables of `[[name]]`; none where it is something else.
fn tables<'a, 'b>(value: &'b Spanned<DeValue<'a>>) -> Option<Vec<Entry<'a, 'b>>> {
    let entry = |member: &'b Spanned<DeValue<'a>>| Some((member.span().start, member.get_ref().as_table()?));
    value.get_ref().as_array()?.iter().map(entry).collect()
}

/// One of several tables of a name, and where it begins.
type Entry<'a, 'b> = (usize, &'b DeTable<'a>);

struct Place<'a> {
    file: &'a Path,
    lines: &'a Lines,
}

impl Place<'_> {
    fn source(&self, offset: usize) -> Source {
        Source::File { path: self.file.to_owned(), line: Some(self.lines.of(offset)) }
    }

    fn issuer(&self, index: usize, entry: Entry<'_, '_>, mistakes: &mut Vec<Mistake>) -> DeclaredIssuer {
        let registration = self.declaration(&format!("{ISSUERS}[{}]", label(entry.1, "id", index)), entry, Some(CLIENTS), mistakes);
        let mut clients = Vec::new();
        if let Some((key, value)) = entry.1.iter().find(|(key, _)| key.get_ref() == CLIENTS) {
            match tables(value) {
                Some(tables) => clients.extend(tables.into_iter().enumerate().map(|(index, client)| {
                    let name = format!("{}.{CLIENTS}[{}]", registration.name, label(client.1, "client_id", index));
                    self.declaration(&name, client, None, mistakes)
                })),
                None => mistakes.push(Mistake {
                    settings: vec![(format!("{}.{CLIENTS}", registration.name), self.source(key.span().start))],
                    why: "must be [[issuers.clients]], in two pairs of brackets, once for each".into(),
                }),
            }
        }
        DeclaredIssuer { registration, clients }
    }

    fn declaration(
        &self,
        name: &str,
        (start, table): Entry<'_, '_>,
        without: Option<&'static str>,
        mistakes: &mut Vec<Mistake>,
    ) -> Declaration {
        let found = BTreeMap::from([(String::new(), self.lines.of(start))]);
        let mut copy = Transcript { lines: self.lines, without, found, flaws: Vec::new(), exposed: Vec::new() };
        let body = copy.table("", table);
        let Transcript { found, flaws, exposed, .. } = copy;
        let exposed = exposed.into_iter().map(|(at, path)| Exposed { setting: format!("{name}{}", dotted(&at)), path }).collect();
        let declaration =
            Declaration { body: Value::Object(body), name: name.to_owned(), file: self.file.to_owned(), lines: found, exposed };
        mistakes.extend(
            flaws.into_iter().map(|flaw| Mistake { settings: flaw.at.iter().map(|at| declaration.at(at)).collect(), why: flaw.why }),
        );
        declaration
    }
}

/// What tells one table from its like: its id, or else how many stand before it.
fn label(table: &DeTable<'_>, member: &str, index: usize) -> String {
    let id = table.iter().find(|(key, _)| key.get_ref() == member).and_then(|(_, value)| value.get_ref().as_str());
    id.map_or_else(|| (index + 1).to_string(), str::to_owned)
}

/// What is wrong with one or two members.
struct Flaw {
    at: Vec<String>,
    why: String,
}

/// A table on its way from TOML to JSON.
struct Transcript<'a> {
    lines: &'a Lines,
    /// What is transcribed elsewhere.
    without: Option<&'static str>,
    found: BTreeMap<String, usize>,
    flaws: Vec<Flaw>,
    /// Members that name files with secrets which others may read.
    exposed: Vec<(String, PathBuf)>,
}

impl Transcript<'_> {
    fn table(&mut self, at: &str, table: &DeTable<'_>) -> Map<String, Value> {
        let mut members = Map::new();
        for (key, value) in table {
            let (name, line) = (key.get_ref().as_ref(), self.lines.of(key.span().start));
            if at.is_empty() && Some(name) == self.without {
                continue;
            }
            let pointer = format!("{at}/{}", escaped(name));
            self.found.insert(pointer.clone(), line);
            match kept_apart(at, name) {
                Some(member) => self.insert_from_file(at, (name, member), value.get_ref(), &mut members, line),
                None if value.get_ref().as_bool() == Some(false) && is_removable(at, name) => {
                    members.insert(name.to_owned(), Value::Null);
                }
                None => {
                    let value = self.value(&pointer, value.get_ref());
                    members.insert(name.to_owned(), value);
                }
            }
        }
        for (name, member) in table.iter().filter_map(|(key, _)| Some((key.get_ref(), kept_apart(at, key.get_ref())?))) {
            if table.iter().any(|(key, _)| key.get_ref() == member) {
                let at = vec![format!("{at}/{}", escaped(member)), format!("{at}/{}", escaped(name))];
                self.flaws.push(Flaw { at, why: "both are set, and only one of them could be used: keep one".into() });
            }
        }
        members
    }

    fn insert_from_file(
        &mut self,
        at: &str,
        (name, member): (&str, &str),
        value: &DeValue<'_>,
        members: &mut Map<String, Value>,
        line: usize,
    ) {
        let text = value.as_str().ok_or_else(|| "must be a string, the path of a file".to_owned());
        match text.and_then(|path| secret_text(Path::new(path))) {
            Ok((text, readers)) => {
                members.entry(member).or_insert(Value::String(text));
                if readers == Readers::Others && !PUBLIC.contains(&member) {
                    self.exposed.push((format!("{at}/{}", escaped(name)), PathBuf::from(value.as_str().unwrap_or_default())));
                }
            }
            Err(why) => {
                self.flaws.push(Flaw { at: vec![format!("{at}/{}", escaped(name))], why });
                // Said, if not well: that it is missing would be another mistake than the one that was made.
                members.entry(member).or_insert(Value::String(UNREAD.to_owned()));
            }
        }
        self.found.entry(format!("{at}/{}", escaped(member))).or_insert(line);
    }

    fn value(&mut self, at: &str, value: &DeValue<'_>) -> Value {
        let number = |text: &str, radix: u32| {
            let digits = text.replace('_', "");
            i64::from_str_radix(&digits, radix).map(Value::from).or_else(|_| u64::from_str_radix(&digits, radix).map(Value::from)).ok()
        };
        let read = match value {
            DeValue::String(text) => Some(Value::String(text.to_string())),
            DeValue::Integer(integer) => number(integer.as_str(), integer.radix()),
            DeValue::Float(float) => float.as_str().replace('_', "").parse().ok().and_then(serde_json::Number::from_f64).map(Value::Number),
            DeValue::Boolean(truth) => Some(Value::Bool(*truth)),
            DeValue::Datetime(instant) => Some(Value::String(instant.to_string())),
            DeValue::Array(members) => Some(members.iter().enumerate().map(|(index, member)| self.member(at, index, member)).collect()),
            DeValue::Table(table) => Some(Value::Object(self.table(at, table))),
        };
        read.unwrap_or_else(|| {
            self.flaws.push(Flaw { at: vec![at.to_owned()], why: "must be a number that can be written in JSON".into() });
            Value::Null
        })
    }

    fn member(&mut self, at: &str, index: usize, member: &Spanned<DeValue<'_>>) -> Value {
        let pointer = format!("{at}/{index}");
        self.found.insert(pointer.clone(), self.lines.of(member.span().start));
        self.value(&pointer, member.get_ref())
    }
}

/// Stands for what could not be read; nothing is served with it.
const UNREAD: &str = "unread";

/// The member that a member is the path of.
fn kept_apart<'a>(at: &str, name: &'a str) -> Option<&'a str> {
    let member = name.strip_suffix(FILE_SUFFIX)?;
    let ours = !FREE.iter().any(|free| at.starts_with(free));
    (at == HEADERS && !member.is_empty() || ours && FROM_FILES.contains(&member)).then_some(member)
}

fn is_removable(at: &str, name: &str) -> bool {
    REMOVABLE.contains(&name) && !FREE.iter().any(|free| at.starts_with(free)) && at != HEADERS
}

fn is_secret(pointer: &str) -> bool {
    let member = pointer.rsplit('/').next().unwrap_or_default();
    pointer.starts_with(HEADERS) || FROM_FILES.contains(&member)
}

/// One reference token of a JSON pointer (RFC 6901 3).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Two registrations of one name would undo each other at every start.
fn refuse_twins(issuers: &[DeclaredIssuer], mistakes: &mut Vec<Mistake>) {
    let registrations: Vec<_> = issuers.iter().map(|issuer| &issuer.registration).collect();
    mistakes.extend(twins(&registrations, "id"));
    mistakes.extend(twins(&registrations, "issuer"));
    for issuer in issuers {
        mistakes.extend(twins(&issuer.clients.iter().collect::<Vec<_>>(), "client_id"));
    }
}

fn twins(all: &[&Declaration], member: &str) -> Vec<Mistake> {
    let mut first: BTreeMap<&str, &Declaration> = BTreeMap::new();
    let mut found = Vec::new();
    for declaration in all {
        let Some(name) = declaration.text(member) else { continue };
        match first.get(name) {
            Some(other) => {
                let pointer = format!("/{member}");
                let settings = vec![other.at(&pointer), declaration.at(&pointer)];
                found.push(Mistake { settings, why: format!("both are {name:?}: the second would replace the first at every start") });
            }
            None => drop(first.insert(name, declaration)),
        }
    }
    found
}
