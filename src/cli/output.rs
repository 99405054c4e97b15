//! What is printed: tables for people, the server's own JSON for programs.

use std::io::{IsTerminal as _, Write as _};
use std::process::{Command, Stdio};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::Value;

use super::asking::Asking;
use super::plain::{plain, plain_json, shortened};
use super::server::Answer;
use super::{Error, Variables};
use crate::model::Timestamp;

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) form: Form,
    /// How many columns the terminal has; none where the result goes elsewhere.
    width: Option<u16>,
}

/// For whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// For people.
    Human,
    /// For programs.
    Json,
}

/// One column of a table, or one line of facts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    head: &'static str,
    /// Where its value is, as a JSON pointer (RFC 6901).
    at: &'static str,
    kind: Kind,
    /// What stands where it has none.
    none: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    Time,
}

/// A value as it is.
pub(super) const fn text(head: &'static str, at: &'static str) -> Column {
    Column { head, at, kind: Kind::Text, none: "-" }
}

/// An instant, shown in UTC to the second.
pub(super) const fn time(head: &'static str, at: &'static str) -> Column {
    Column { head, at, kind: Kind::Time, none: "-" }
}

/// The longest value in a table, in characters.
const CELL_CHARS_MAX: usize = 300;

impl Output {
    /// As the command line says.
    pub(super) fn of(asking: &Asking, variables: &Variables) -> Self {
        let form = if asking.json { Form::Json } else { Form::Human };
        let width = if std::io::stdout().is_terminal() && form == Form::Human { width(variables) } else { None };
        Self { form, width }
    }

    /// An answer: for programs as it came, for people as `human` says it.
    pub(super) fn answer(self, answer: &Answer, human: impl FnOnce(&Value) -> String) -> Result<(), Error> {
        match self.form {
            Form::Json if answer.text.is_empty() => Ok(()),
            Form::Json => print(&plain_json(answer.text.trim_end())),
            Form::Human => print(human(&answer.value).trim_end()),
        }
    }

    /// A list as a table; where it was cut that is said.
    pub(super) fn list(self, answer: &Answer, columns: &[Column]) -> Result<(), Error> {
        let items = answer.value.get("items").and_then(Value::as_array).ok_or(Error::Misunderstood)?;
        self.answer(answer, |_| self.table(items, columns))?;
        if self.form == Form::Human && answer.value.get("next").is_some_and(Value::is_string) {
            eprintln!("there are more than these {}: ask with a larger --limit", items.len());
        }
        Ok(())
    }

    /// One object as lines of names and values.
    pub(super) fn facts(self, answer: &Answer, lines: &[Column]) -> Result<(), Error> {
        self.answer(answer, |value| facts(value, lines))
    }

    /// Rows under their headings.
    pub(super) fn table<'a>(self, rows: impl IntoIterator<Item = &'a Value>, columns: &[Column]) -> String {
        let mut table = Table::new();
        table.load_preset(NOTHING).set_header(columns.iter().map(|column| column.head.to_uppercase()));
        table.add_rows(rows.into_iter().map(|row| columns.iter().map(|column| column.of(row)).collect::<Vec<_>>()));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        match self.width {
            Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        table.trim_fmt()
    }
}

impl Column {
    /// The same, with a word of its own where there is no value.
    pub(super) const fn or(self, none: &'static str) -> Self {
        Self { none, ..self }
    }

    fn of(&self, row: &Value) -> String {
        match (self.kind, row.pointer(self.at).filter(|value| !is_nothing(Some(value)))) {
            (_, None) => self.none.to_owned(),
            (Kind::Time, Some(Value::String(instant))) => to_the_second(instant),
            (Kind::Time | Kind::Text, Some(value)) => cell(value),
        }
    }
}

/// Names and values, one pair in a line; what has no value is left out.
pub(super) fn facts(value: &Value, lines: &[Column]) -> String {
    let told = lines.iter().filter(|line| !is_nothing(value.pointer(line.at)));
    let widest = lines.iter().map(|line| line.head.chars().count()).max().unwrap_or(0);
    told.map(|line| format!("{:widest$}  {}\n", line.head, line.of(value))).collect()
}

/// No value, or an empty list.
fn is_nothing(value: Option<&Value>) -> bool {
    value.is_none_or(|value| value.is_null() || value.as_array().is_some_and(Vec::is_empty))
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(items) if items.iter().all(Value::is_string) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        Value::Object(members) => members.iter().map(member).collect::<Vec<_>>().join(" "),
        Value::Number(_) | Value::Array(_) => value.to_string(),
    };
    shortened(&plain(&text), CELL_CHARS_MAX)
}

/// `sub=alice`; and `everyone`, which is no name of anybody.
fn member((name, value): (&String, &Value)) -> String {
    if *value == Value::Bool(true) { name.clone() } else { format!("{name}={}", cell(value)) }
}

/// `2026-09-21T14:13:20Z`, whatever fraction and offset it came with.
pub(super) fn to_the_second(instant: &str) -> String {
    match Timestamp::parse(instant) {
        Ok(at) => at.to_string().split('.').next().map_or_else(String::new, |seconds| format!("{seconds}Z")),
        Err(_) => shortened(&plain(instant), CELL_CHARS_MAX),
    }
}

/// A number and what it counts, in the singular where it is one.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// One result on the standard output. A reader that has gone away had enough: what was done is done, and whether it went well is said by the status.
pub(super) fn print(text: &str) -> Result<(), Error> {
    match print_on(text) {
        Err(Error::Unread) => Ok(()),
        printed => printed,
    }
}

/// One of many results: without a reader the next ones need not be asked for.
pub(super) fn print_on(text: &str) -> Result<(), Error> {
    writeln!(std::io::stdout().lock(), "{text}")
        .map_err(|error| if error.kind() == std::io::ErrorKind::BrokenPipe { Error::Unread } else { Error::Output(error) })
}

/// What the environment says, or what the terminal does: no crate here may ask it.
fn width(variables: &Variables) -> Option<u16> {
    let said = variables.iter().find(|(name, _)| name == "COLUMNS").and_then(|(_, value)| value.parse().ok());
    said.or_else(asked_of_the_terminal).filter(|width| (20..=1000).contains(width))
}

fn asked_of_the_terminal() -> Option<u16> {
    // `rows columns`, of the terminal on its standard input.
    let size = Command::new("stty").arg("size").stdin(Stdio::inherit()).stderr(Stdio::null()).output().ok()?;
    str::from_utf8(&size.stdout).ok()?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PIPED: Output = Output { form: Form::Human, width: None };
    const COLUMNS: [Column; 3] = [text("client", "/client_id"), time("since", "/lane/since"), text("paused", "/paused")];

    #[test]
    fn a_table_has_a_heading_and_a_line_for_each_row_whose_parts_a_script_can_take() {
        let rows = [
            json!({"client_id": "wi\u{1b}[31mki", "lane": {"since": "2026-09-21T16:13:20.250+02:00"}, "paused": true}),
            json!({"client_id": "a-much-longer-name", "lane": null}),
        ];
        let printed = PIPED.table(&rows, &COLUMNS);
        let lines: Vec<_> = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(
            lines,
            [vec!["CLIENT", "SINCE", "PAUSED"], vec!["wi[31mki", "2026-09-21T14:13:20Z", "yes"], vec!["a-much-longer-name", "-", "-"],]
        );
        assert!(printed.lines().all(|line| line == line.trim_end()), "{printed:?}");
    }

    #[test]
    fn a_table_keeps_to_the_terminal_and_a_piped_one_is_not_wrapped() {
        let rows = [json!({"client_id": "x".repeat(200)})];
        let narrow = Output { form: Form::Human, width: Some(60) }.table(&rows, &COLUMNS);
        assert!(narrow.lines().count() > 2 && narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
        assert_eq!(PIPED.table(&rows, &COLUMNS).lines().count(), 2);
    }

    #[test]
    fn facts_leave_out_what_is_not_known_and_cut_what_is_endless() {
        let value = json!({"client_id": "x".repeat(100_000), "paused": null});
        let printed = facts(&value, &COLUMNS);
        assert!(printed.lines().count() == 1 && printed.starts_with("client  xxx") && printed.len() < 400, "{printed}");
    }
}
