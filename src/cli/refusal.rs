//! A refusal of the server's in a sentence, and what the person at the terminal can do about it.

use std::fmt;
use std::time::Duration;

use reqwest::header::{LOCATION, RETRY_AFTER};
use serde_json::Value;

use super::plain::{plain, shortened};

/// The server refused.
#[derive(Debug)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The last part of the problem's `type`; empty where the answer is no problem document.
    pub code: String,
    /// The problem's title and what it says of this occurrence (RFC 9457 3.1).
    pub said: String,
    /// What is at fault and what to do, in lines.
    pub advice: String,
    /// How long to wait before asking again.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}: {}", self.status, self.said)
    }
}

impl std::error::Error for Refusal {}

/// Whom was asked, and as whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The server's URL.
    pub(super) base: &'a str,
    /// Where the API token came from.
    pub(super) token_from: &'a str,
}

pub(super) const HOW_TO_GET_A_TOKEN: &str = "  put an API token into LOGOUTD_TOKEN, or a file with one into LOGOUTD_TOKEN_FILE; an admin mints one with\n  \
     `logoutd token create --role operator`, and where the server runs the value of its LOGOUTD_ADMIN_TOKEN is one";

/// How many parts at fault are told.
const ERRORS_MAX: usize = 20;
/// The longest sentence that is told, in characters.
const SENTENCE_CHARS_MAX: usize = 500;

impl Refusal {
    /// What an answer that is no success says.
    pub(super) fn of(status: u16, headers: &reqwest::header::HeaderMap, body: &Value, asked: Asked<'_>) -> Self {
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(|text| shortened(&plain(text), SENTENCE_CHARS_MAX));
        let code = text("type").and_then(|urn| urn.strip_prefix("urn:logoutd:problem:").map(str::to_owned)).unwrap_or_default();
        let said = [text("title"), text("detail")].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let seen = Seen { location: header(LOCATION), instance: text("instance") };
        let lines: Vec<String> = faults(body).chain(advice(status, &code, asked, &seen)).map(|line| format!("  {line}")).collect();
        Self {
            status,
            said: if said.is_empty() { "no reason given".to_owned() } else { said },
            advice: lines.join("\n"),
            retry_after: header(RETRY_AFTER).and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs),
            code,
        }
    }

    /// Adds a line of advice.
    pub(super) fn advise(&mut self, line: &str) {
        if !self.advice.is_empty() {
            self.advice.push('\n');
        }
        self.advice.push_str("  ");
        self.advice.push_str(line);
    }
}

/// The parts of the request that are at fault, each in a line.
fn faults(body: &Value) -> impl Iterator<Item = String> {
    let errors = body.get("errors").and_then(Value::as_array).into_iter().flatten().take(ERRORS_MAX);
    errors.filter_map(|error| {
        let text = |name: &str| error.get(name).and_then(Value::as_str);
        let place = ["pointer", "parameter", "header"].into_iter().find_map(text)?;
        let place = if place.is_empty() { "the request" } else { place };
        Some(shortened(&plain(&format!("{place}: {}", text("detail")?)), SENTENCE_CHARS_MAX))
    })
}

/// What an answer says beside its sentence.
struct Seen<'a> {
    location: Option<&'a str>,
    instance: Option<String>,
}

fn advice(status: u16, code: &str, Asked { base, token_from }: Asked<'_>, seen: &Seen<'_>) -> Vec<String> {
    let line = |text: String| vec![text];
    match (status, code) {
        (300..=399, _) => {
            let place = seen.location.map_or_else(String::new, |place| format!(" to {}", shortened(&plain(place), SENTENCE_CHARS_MAX)));
            line(format!("{base} redirects{place}: say in LOGOUTD_URL where the server is itself"))
        }
        (401, _) => vec![
            format!("{token_from} holds no API token that this server takes: it may be revoked, expired, or another server's"),
            "an admin mints one with `logoutd token create --role operator`".to_owned(),
        ],
        (403, _) => {
            vec![format!("the token in {token_from} may not do this; an admin mints another with `logoutd token create --role ROLE`")]
        }
        (404, "unknown-client") => line("`logoutd client list ISSUER` shows those that are registered".to_owned()),
        (404, "unknown-session") => line("`logoutd session list ISSUER` shows those that were reported".to_owned()),
        (404, "unknown-logout") => line("`logoutd logout list ISSUER` shows those there are".to_owned()),
        (404, "unknown-delivery") => line("`logoutd delivery list ISSUER` shows those there are".to_owned()),
        (404, "unknown-key") => line("`logoutd keys list ISSUER` shows those of ours that are kept".to_owned()),
        (404, "unknown-cut-off") => {
            line("`logoutd cut-off list ISSUER` shows those that were ordered; that of a logout is lifted by its undoing".to_owned())
        }
        (404, "unknown-gap") => line("`logoutd gap list ISSUER` shows those that are open".to_owned()),
        (404, "unknown-denial") => line("`logoutd denylist list ISSUER` shows the entries".to_owned()),
        (404, "unknown-api-token") => line("`logoutd token list` shows those there are".to_owned()),
        (404, "") => line(format!("is {base} a logoutd? What answered does not speak as one")),
        (404, "not-found") => line("the server knows no such thing: perhaps it is of another version than this command".to_owned()),
        (409, "cannot-be-told") => line("`logoutd client show ISSUER CLIENT` shows how it is registered".to_owned()),
        (412, _) => line("it was changed meanwhile: look at it again and repeat".to_owned()),
        (422, "idempotency-key-reused") => line("another logout was posted with this key: take another key, or none".to_owned()),
        (429, "rate-limited") => {
            line("this is more than the token, or all who ask about the issuer, may ask in a second: wait a little, then repeat".to_owned())
        }
        (429, _) => line("wait a little, then repeat".to_owned()),
        (503, _) => line("nobody knows whether it was done: repeat when the server is well; its /readyz says what ails it".to_owned()),
        (500..=599, _) => line(match &seen.instance {
            Some(instance) => format!("the server's log tells more under {instance}"),
            None => format!("something between here and the server answered, or {base} is no logoutd"),
        }),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderMap, HeaderValue};
    use serde_json::json;

    use super::*;

    const ASKED: Asked<'static> = Asked { base: "http://here", token_from: "LOGOUTD_TOKEN" };

    fn refusal(status: u16, body: &Value) -> Refusal {
        Refusal::of(status, &HeaderMap::new(), body, ASKED)
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_its_problem_document_and_says_what_is_at_fault() {
        let body = json!({"type": "urn:logoutd:problem:invalid-field", "title": "invalid", "detail": "not\u{1b}[2J so",
            "errors": [{"pointer": "/target/sid", "detail": "must not be empty"}, {"parameter": "limit", "detail": "is too large"}, {"pointer": 1}]});
        let refusal = refusal(422, &body);
        assert_eq!(refusal.to_string(), "the server answered 422: invalid: not[2J so");
        assert_eq!(refusal.advice, "  /target/sid: must not be empty\n  limit: is too large");
        assert_eq!(refusal.code, "invalid-field");
    }

    #[test]
    fn who_is_not_known_or_may_not_is_told_which_token_was_shown_and_how_to_get_another() {
        for status in [401, 403] {
            let advice = refusal(status, &json!({})).advice;
            assert!(advice.contains("LOGOUTD_TOKEN") && advice.contains("logoutd token create"), "{advice}");
        }
    }

    #[test]
    fn a_redirect_says_where_to_and_a_wait_is_read() {
        let headers =
            HeaderMap::from_iter([(LOCATION, HeaderValue::from_static("https://there")), (RETRY_AFTER, HeaderValue::from_static("3"))]);
        let refusal = Refusal::of(308, &headers, &Value::Null, ASKED);
        assert!(refusal.advice.contains("https://there") && refusal.said == "no reason given", "{refusal:?}");
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(3)));
    }

    #[test]
    fn what_is_endless_is_cut() {
        let errors: Vec<_> = (0..1000).map(|n| json!({"pointer": format!("/{n}"), "detail": "x".repeat(10_000)})).collect();
        let refusal = refusal(422, &json!({"title": "t".repeat(100_000), "errors": errors}));
        assert!(refusal.said.len() < 2000 && refusal.advice.len() < 40_000, "{} {}", refusal.said.len(), refusal.advice.len());
    }
}
