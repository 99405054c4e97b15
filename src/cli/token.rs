//! `logoutd token …`

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{post, server};
use super::{Error, Variables, print};
use crate::model::access::Role;
use crate::model::{ClientId, IssuerId};
use crate::seams::Clock;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Mint an API token and print it, the only time it is shown
    #[command(after_help = "Asks the server at LOGOUTD_URL (http://127.0.0.1:8080) with the token in LOGOUTD_TOKEN.")]
    Create(CreateArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// provider, gateway, client, operator, auditor or admin
    #[arg(long, value_parser = Role::parse)]
    role: Role,
    /// The issuer it is bound to
    #[arg(long, value_parser = |text: &str| IssuerId::parse(text))]
    issuer: Option<IssuerId>,
    /// The client it is bound to
    #[arg(long, value_parser = |text: &str| ClientId::parse(text))]
    client_id: Option<ClientId>,
    /// Let a provider end all sessions of a client or of everyone
    #[arg(long)]
    may_mass_kill: bool,
    /// End its life after so many seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=315_360_000))]
    expires_in_s: Option<u64>,
    /// Print the whole answer as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn create(args: CreateArgs, variables: &Variables) -> Result<(), Error> {
    let (url, token) = server(variables)?;
    let answer = post(&format!("{url}/v1/api-tokens"), token, &body(&args, &Clock::system())).await?;
    match (args.json, answer.get("id").and_then(Value::as_str), answer.get("token").and_then(Value::as_str)) {
        (_, None, _) | (_, _, None) => Err(Error::Misunderstood),
        (true, ..) => print(&Value::Object(answer).to_string()),
        (false, Some(id), Some(token)) => {
            eprintln!("id {id}");
            print(token)
        }
    }
}

/// The request body; what was not asked for is left out.
fn body(args: &CreateArgs, clock: &Clock) -> Value {
    let mut body = Map::from_iter([("role".to_owned(), json!(args.role.as_str()))]);
    let mut set = |name: &str, value: Option<Value>| value.map(|value| body.insert(name.to_owned(), value));
    set("issuer", args.issuer.as_ref().map(|issuer| json!(issuer.as_str())));
    set("client_id", args.client_id.as_ref().map(|client_id| json!(client_id.as_str())));
    set("may_mass_kill", args.may_mass_kill.then_some(Value::Bool(true)));
    set("expires_at", args.expires_in_s.map(|seconds| json!(clock.now().plus(Duration::from_secs(seconds)).to_string())));
    Value::Object(body)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::client::ANSWER_BYTES_MAX;
    use super::super::{Cli, Command as Any};
    use super::*;

    fn args(line: &[&str]) -> CreateArgs {
        let cli = Cli::try_parse_from(["logoutd", "token", "create"].iter().chain(line)).unwrap();
        let Any::Token(Command::Create(args)) = cli.command else { panic!("create is create") };
        args
    }

    fn variables(url: &str) -> Variables {
        vec![("LOGOUTD_URL".into(), url.into()), ("LOGOUTD_TOKEN".into(), "ldt_x".into())]
    }

    /// Posts to a server that answers these octets; what came of it, and the request as it was sent.
    async fn asked(answer: String) -> (Result<Map<String, Value>, Error>, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/api-tokens", listener.local_addr().unwrap());
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            // A client that has read enough may be gone before the end.
            drop(stream.write_all(answer.as_bytes()).await);
            String::from_utf8(request).unwrap()
        };
        let body = json!({"role": "auditor"});
        tokio::join!(post(&url, "ldt_x", &body), server)
    }

    fn http(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn the_token_is_presented_and_the_answer_returned() {
        let (answer, request) = asked(http("201 Created", r#"{"id":"i","token":"ldt_new"}"#)).await;
        assert_eq!(answer.unwrap().get("token"), Some(&json!("ldt_new")));
        assert!(request.starts_with("POST /v1/api-tokens HTTP/1.1\r\n") && request.contains("authorization: Bearer ldt_x"), "{request}");
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_words_of_its_problem_document() {
        let (answer, _) = asked(http("403 Forbidden", "{\"title\":\"forbidden\",\"detail\":\"not\\u001b[2J yours\"}")).await;
        assert_eq!(answer.unwrap_err().to_string(), "the server answered 403: forbidden: not[2J yours");
    }

    #[tokio::test]
    async fn an_answer_that_is_no_answer_or_has_no_end_is_not_understood() {
        for answer in [http("201 Created", "hello"), http("200 OK", &"x".repeat(ANSWER_BYTES_MAX + 1))] {
            assert!(matches!(asked(answer).await.0, Err(Error::Misunderstood)));
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_told_as_such() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        assert!(matches!(post(&url, "ldt_x", &json!({})).await, Err(Error::Unreachable { .. })));
    }

    #[test]
    fn what_was_not_asked_for_is_left_out_of_the_request() {
        let clock = Clock::system();
        assert_eq!(body(&args(&["--role", "auditor"]), &clock), json!({"role": "auditor"}));
        let full = args(&["--role", "provider", "--issuer", "main", "--may-mass-kill", "--expires-in-s", "60"]);
        let body = body(&full, &clock);
        assert_eq!((&body["issuer"], &body["may_mass_kill"]), (&json!("main"), &json!(true)));
        let expires_at = crate::model::Timestamp::parse(body["expires_at"].as_str().unwrap()).unwrap();
        assert!(expires_at.since(clock.now()) > Duration::from_secs(50));
    }

    #[test]
    fn without_a_token_the_command_is_used_wrongly() {
        for variables in [vec![], vec![("LOGOUTD_TOKEN".to_owned(), String::new())], variables("ftp://x")] {
            assert!(matches!(server(&variables), Err(Error::Variable { .. })), "{variables:?}");
        }
    }
}
