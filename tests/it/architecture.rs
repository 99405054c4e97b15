//! Who may touch whom. A room that reaches outside its row fails here, by file and line.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A room, the rooms it may use, and the guarded crates it may use. Direction: nothing points upward.
type Row = (&'static str, &'static [&'static str], &'static [&'static str]);

const ROWS: &[Row] = &[
    ("main", &["cli"], &["anyhow", "clap"]),
    ("lib", &[], &[]),
    // The listener makes the handshakes.
    ("app", &[ANY], &["axum", "tokio_rustls", "tracing"]),
    // A path of the API is written there as the façade writes it.
    (
        "cli",
        &["app", "config", "egress", "http", "model", "observe", "seams", "store", "token"],
        &["clap", "clap_complete", "comfy_table", "indicatif", "reqwest"],
    ),
    // A token that is to be revoked is looked up as one that is asked about.
    ("receive", &["answer", "http", "issuers", "lifecycle", "model", "observe", "plan", "seams", "store", "token"], DOOR),
    ("answer", &["http", "issuers", "lifecycle", "model", "observe", "plan", "seams", "store", "token"], DOOR),
    ("registry", &["egress", "http", "issuers", "lifecycle", "model", "observe", "plan", "seams", "store", "token"], DOOR),
    (
        "console",
        &["answer", "http", "issuers", "lifecycle", "model", "observe", "plan", "receive", "registry", "seams", "store", "token"],
        &["axum", "askama"],
    ),
    ("deliver", &["egress", "issuers", "lifecycle", "model", "observe", "plan", "seams", "store", "token"], &["tracing"]),
    (
        "upkeep",
        &["issuers", "bells", "egress", "lifecycle", "model", "observe", "plan", "seams", "store", "token"],
        &["tokio_cron_scheduler", "tracing"],
    ),
    // The façade digests the tokens callers present, asks how often one may be wrong, and hands every handler its parts: the keyring, the sealing key, the
    // address book and the URL check among them.
    (
        "http",
        &["bells", "egress", "issuers", "lifecycle", "model", "observe", "plan", "seams", "store", "token", ERRORS],
        &["axum", "utoipa", "utoipa_axum"],
    ),
    ("issuers", &["egress", "lifecycle", "model", "observe", "seams", "token"], &["openidconnect", "tracing"]),
    ("store", &["lifecycle", "model", "observe", "seams"], &["sqlx", "tracing"]),
    ("egress", &["lifecycle", "model", "observe", "plan", "seams"], &["reqwest", "tracing", "x509_parser"]),
    ("token", &["model", "seams"], &["aws_lc_rs", "jsonwebtoken"]),
    ("plan", &["model"], &[]),
    // Spans take their numbers from the same chance as everything, and their times from the same clock.
    (
        "observe",
        &["model", "seams"],
        &[
            "metrics",
            "metrics_exporter_prometheus",
            "opentelemetry",
            "opentelemetry_http",
            "opentelemetry_otlp",
            "opentelemetry_sdk",
            "tracing",
            "tracing_subscriber",
        ],
    ),
    ("config", &["model"], &["toml"]),
    ("lifecycle", &[], &["tracing"]),
    ("bells", &[], &[]),
    ("seams", &["model"], &[]),
    ("model", &[], &["chrono", "croner"]),
];

const DOOR: &[&str] = &["axum", "utoipa", "utoipa_axum"];
/// Every room.
const ANY: &str = "*";
/// The error enums of every room, by their names: each becomes a problem document in one place.
const ERRORS: &str = "…Error and …Refused";

/// The crates that may be named only where a row says so.
const GUARDED: &[&str] = &[
    "anyhow",
    "askama",
    "aws_lc_rs",
    "axum",
    "chrono",
    "clap",
    "clap_complete",
    "comfy_table",
    "croner",
    "indicatif",
    "jsonwebtoken",
    "metrics",
    "metrics_exporter_prometheus",
    "openidconnect",
    "opentelemetry",
    "opentelemetry_http",
    "opentelemetry_otlp",
    "opentelemetry_sdk",
    "reqwest",
    "sqlx",
    "tokio_cron_scheduler",
    "tokio_rustls",
    "toml",
    "tracing",
    "tracing_subscriber",
    "utoipa",
    "utoipa_axum",
    "x509_parser",
];

/// Everything in one file that its room may not touch, as `file:line: what`. `file` is relative to `src/`.
fn faults(file: &str, text: &str) -> Vec<String> {
    let room = room_of(file);
    let Some((_, rooms, crates)) = ROWS.iter().find(|(name, ..)| *name == room) else {
        return vec![format!("{file}:1: the room `{room}` has no row")];
    };
    let code = code_only(text);
    let reaches_room = |path: &str| {
        let target = path.split("::").next().unwrap_or_default();
        let known = ROWS.iter().any(|(name, ..)| *name == target);
        let is_error = path.split("::").any(|name| name.ends_with("Error") || name.ends_with("Refused"));
        known && target != room && !rooms.contains(&ANY) && !rooms.contains(&target) && !(is_error && rooms.contains(&ERRORS))
    };
    let inward = own_paths(file, &code).into_iter().filter(|(_, path)| reaches_room(path));
    let outward = words(&code).filter(|(at, word)| GUARDED.contains(word) && !crates.contains(word) && names_a_crate(&code, *at, word));
    let outward = outward.map(|(at, word)| (at, word.to_owned()));
    inward.chain(outward).map(|(at, what)| format!("{file}:{}: `{room}` may not use `{what}`", line_of(&code, at))).collect()
}

fn room_of(file: &str) -> &str {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

/// The text with comments and test code blanked, line by line.
fn code_only(text: &str) -> String {
    // The indentation of the test item we are inside of, until it is over.
    let mut test_item: Option<usize> = None;
    let blanked = text.lines().map(|line| {
        let indent = line.len() - line.trim_start().len();
        match test_item {
            Some(outer) => {
                let is_over = indent == outer && (line.trim() == "}" || line.ends_with(';'));
                test_item = test_item.filter(|_| !is_over);
                ""
            }
            None if line.trim() == "#[cfg(test)]" => {
                test_item = Some(indent);
                ""
            }
            None => without_comment(line),
        }
    });
    blanked.collect::<Vec<_>>().join("\n")
}

fn without_comment(line: &str) -> &str {
    let is_comment = |at: &usize| line[..*at].trim().is_empty() || line[..*at].ends_with(' ');
    line.find("//").filter(is_comment).map_or(line, |at| &line[..at])
}

/// Every path that starts at the crate's root, with where it stands, without `crate::`.
fn own_paths(file: &str, code: &str) -> Vec<(usize, String)> {
    let depth = file.split('/').filter(|part| *part != "mod.rs").count();
    let mut found = Vec::new();
    for (at, word) in words(code) {
        let rest = &code[at..];
        let follows_path = code[..at].ends_with("::");
        let root = match word {
            "crate" | "logoutd" if !follows_path => rest[word.len()..].strip_prefix("::"),
            "super" if !follows_path => {
                let after = rest.trim_start_matches("super::");
                ((rest.len() - after.len()) / "super::".len() >= depth).then_some(after)
            }
            _ => None,
        };
        found.extend(root.into_iter().flat_map(tree).map(|path| (at, path)));
    }
    found
}

/// The paths of a use tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn tree(text: &str) -> Vec<String> {
    let stem_len = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let (stem, rest) = text.split_at(stem_len);
    let Some(group) = rest.strip_prefix('{') else { return vec![stem.to_owned()] };
    let (mut depth, mut start, mut paths) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        if depth == 0 && matches!(c, ',' | '}') {
            paths.extend(tree(group[start..at].trim_start()).into_iter().map(|path| format!("{stem}{path}")));
            start = at + 1;
        }
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            _ => {}
        }
    }
    paths
}

fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.split(move |c| !is_part(c)).filter(|word| !word.is_empty()).map(|word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

fn names_a_crate(code: &str, at: usize, word: &str) -> bool {
    let (before, after) = (&code[..at], &code[at + word.len()..]);
    !before.ends_with("::")
        && !before.ends_with('.')
        && (after.starts_with("::") || before.ends_with("use ") || before.ends_with("extern crate "))
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

fn is_test_file(file: &str) -> bool {
    file.split('/').any(|part| matches!(part, "tests" | "tests.rs"))
}

fn sources(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path.to_str().unwrap().to_owned()),
            false => {}
        }
    }
}

#[test]
fn no_room_reaches_outside_its_row() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");
    let mut files = Vec::new();
    sources(Path::new(root), &mut files);
    let rooms: BTreeSet<_> = files.iter().map(|file| room_of(&file[root.len()..])).collect();
    assert!(rooms.contains("model"), "these are not the sources: {rooms:?}");
    let found: Vec<_> = files
        .iter()
        .filter(|file| !is_test_file(&file[root.len()..]))
        .flat_map(|file| faults(&file[root.len()..], &fs::read_to_string(file).unwrap()))
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn a_reach_outside_the_row_is_found_in_every_spelling() {
    let bad = [
        ("plan/settle.rs", "//! Pure.\nuse crate::store::Store;", "plan/settle.rs:2: `plan` may not use `store::Store`"),
        ("plan/mod.rs", "use crate::{\n    model::Timestamp,\n    egress::{Client, Guard},\n};", "`egress::Client`"),
        ("plan/mod.rs", "fn f() { super::store::open() }", "plan/mod.rs:1: `plan` may not use `store::open`"),
        ("deliver/lane/mod.rs", "use super::super::http;", "`deliver` may not use `http`"),
        ("receive/mod.rs", "let n: sqlx::Row;", "receive/mod.rs:1: `receive` may not use `sqlx`"),
        ("model/mod.rs", "#[derive(sqlx::Type)]\nstruct S;", "`sqlx`"),
        (
            "observe/mod.rs",
            "#[cfg(test)]\nmod tests {\n    use crate::app;\n}\n\nuse crate::http::Problem;",
            "observe/mod.rs:6: `observe` may not use `http::Problem`",
        ),
        ("observe/mod.rs", "#[cfg(test)]\nuse crate::app::x;\nuse crate::app::y;", "observe/mod.rs:3: `observe` may not use `app::y`"),
        ("http/mod.rs", "use crate::deliver::Courier;", "`deliver::Courier`"),
        ("main.rs", "use logoutd::store;", "`store`"),
        ("helpers/mod.rs", "", "`helpers` has no row"),
    ];
    for (file, text, fault) in bad {
        let found = faults(file, text).join("\n");
        assert!(found.contains(fault), "{fault} in {found:?}");
    }
}

#[test]
fn what_a_row_allows_and_what_is_no_code_is_let_through() {
    let good = [
        ("plan/settle.rs", "/// See [`crate::store::Store`].\nuse crate::model::Timestamp; // not crate::store\nuse super::retry;"),
        ("http/problem.rs", "use crate::receive::ReceiveError;\nuse crate::deliver::{DeliverError, LeaseRefused};"),
        ("egress/mod.rs", "use hyper_rustls::aws_lc_rs::x;\nlet url = \"https://a\"; self.reqwest.get()"),
        ("store/mod.rs", "use sqlx::Row;\n#[cfg(test)]\nmod tests {\n    fn f() {\n        crate::http::x();\n    }\n}\n"),
        ("app.rs", "use crate::{deliver, http};"),
        ("model/mod.rs", "pub mod store_hours;\nfn metrics() {}"),
    ];
    for (file, text) in good {
        assert_eq!(faults(file, text), Vec::<String>::new(), "{file}");
    }
}
