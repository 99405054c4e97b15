//! The HTTP API, as the command line calls it.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value};

use super::{Error, Variables};

/// The server's URL without a slash at its end, and the token to present there.
pub(super) fn server(variables: &Variables) -> Result<(&str, &str), Error> {
    let variable = |name: &str| variables.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str());
    let url = variable("LOGOUTD_URL").unwrap_or("http://127.0.0.1:8080").trim_end_matches('/');
    let parsed = url::Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    if parsed.is_none() {
        return Err(Error::Variable { name: "LOGOUTD_URL", why: "must be an http(s) URL" });
    }
    variable("LOGOUTD_TOKEN").map(|token| (url, token)).ok_or(Error::Variable { name: "LOGOUTD_TOKEN", why: "must hold an API token" })
}

/// One request, and the object it is answered with; an answer without a body is an empty one.
pub(super) async fn ask(method: Method, url: &str, token: &str, body: Option<&Value>) -> Result<Map<String, Value>, Error> {
    let unreachable = |source: reqwest::Error| Error::Unreachable { url: url.to_owned(), source: source.without_url() };
    let request = api_client().map_err(unreachable)?.request(method, url).bearer_auth(token);
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    let mut response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let mut octets = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        octets.extend_from_slice(&chunk);
        if octets.len() > ANSWER_BYTES_MAX {
            return Err(Error::Misunderstood);
        }
    }
    let answer: Option<Map<String, Value>> = if octets.is_empty() { Some(Map::new()) } else { serde_json::from_slice(&octets).ok() };
    match (status.is_success(), answer) {
        (true, Some(answer)) => Ok(answer),
        (true, None) => Err(Error::Misunderstood),
        (false, problem) => Err(Error::Refused { status: status.as_u16(), detail: in_a_sentence(&problem.unwrap_or_default()) }),
    }
}

/// The largest answer that is read.
pub(super) const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What a problem document says (RFC 9457 3.1) and of which members, control characters removed, since it goes to a terminal.
fn in_a_sentence(problem: &Map<String, Value>) -> String {
    let texts = ["title", "detail"].into_iter().filter_map(|member| Some(problem.get(member)?.as_str()?.to_owned()));
    let errors = problem.get("errors").and_then(Value::as_array).into_iter().flatten();
    let members = errors.filter_map(|error| Some(format!("{} {}", error.get("pointer")?.as_str()?, error.get("detail")?.as_str()?)));
    let sentence = texts.chain(members).collect::<Vec<_>>().join(": ");
    if sentence.is_empty() { "no reason given".to_owned() } else { sentence.chars().filter(|c| !c.is_control()).take(500).collect() }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this client talks to our own API at an address the operator chose; the address guard is for others"
)]
fn api_client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .timeout(Duration::from_secs(30))
        .build()
}

/// [`ask`] with a body, by POST.
pub(super) async fn post(url: &str, token: &str, body: &Value) -> Result<Map<String, Value>, Error> {
    ask(Method::POST, url, token, Some(body)).await
}
