//! The guides under `examples/providers`: what they tell a reader to register is registered as it stands there, on a server in production's mode.

use std::fs;
use std::path::{Path, PathBuf};

use logoutd::config::Mode;
use serde_json::Value;

use crate::harness::api::Api;
use crate::harness::database::on_both_engines;
use crate::harness::server::Server;

/// What a reader is told to register.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Issuer(Value),
    Client(Value),
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/providers")
}

/// The name and the text of every guide.
fn guides() -> Vec<(String, String)> {
    let entries = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    let mut guides: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "md") && path.file_stem().unwrap() != "README")
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    guides.sort();
    guides
}

/// The blocks of JSON that stand under a mark.
fn steps(guide: &str) -> Vec<Step> {
    guide.split("<!-- register ").skip(1).map(step).collect()
}

fn step(marked: &str) -> Step {
    let (what, rest) = marked.split_once(" -->\n```json\n").expect("a mark stands right above a block of JSON");
    let (block, _) = rest.split_once("\n```").expect("a block ends");
    let body = serde_json::from_str(block).unwrap_or_else(|error| panic!("{error} in {block}"));
    match what {
        "issuer" => Step::Issuer(body),
        "client" => Step::Client(body),
        other => panic!("no such mark: {other}"),
    }
}

#[test]
fn every_guide_is_in_the_table_and_registers_an_issuer_and_a_client() {
    let table = fs::read_to_string(directory().join("README.md")).unwrap();
    let guides = guides();
    assert_eq!(guides.len(), 10);
    for (name, text) in guides {
        assert!(table.contains(&format!("]({name})")), "{name} is not in the table");
        let steps = steps(&text);
        assert!(matches!(steps[..], [Step::Issuer(_), Step::Client(_), ..]), "{name}: {steps:?}");
        assert_eq!(text.matches("```json").count(), steps.len(), "{name} has JSON that nothing tries");
    }
}

on_both_engines! {
    async fn what_a_guide_registers_is_taken_whole(database) {
        let server = Server::start_with(database, Mode::Production, &[]).await;
        let admin = server.admin();
        for (name, text) in guides() {
            register(&admin, &name, steps(&text)).await;
        }
    }
}

/// Registers what a guide says, in its order, and takes it away for the next one. Only the short id is another, the guide's name: that of a deleted
/// issuer is not given to a new one.
async fn register(admin: &Api, name: &str, steps: Vec<Step>) {
    let id = name.trim_end_matches(".md");
    let mut places = Vec::new();
    for step in steps {
        let (path, body) = match step {
            Step::Issuer(mut body) => {
                body["id"] = id.into();
                ("/v1/issuers".to_owned(), body)
            }
            Step::Client(body) => (format!("/v1/issuers/{id}/clients"), body),
        };
        let answer = admin.post(&path, body).await;
        assert_eq!(answer.status, 201, "{name}: {}", answer.text);
        let ignored = answer.body.get("ignored").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        assert!(ignored.is_empty(), "{name} says what nobody reads: {ignored:?}");
        places.push(answer.header("location").to_owned());
    }
    for place in places.iter().rev() {
        assert!(admin.delete(place).await.is_success(), "{name}: {place} stays");
    }
}
