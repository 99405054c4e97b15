//! The HTTP API, as the command line calls it.

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::asking::Asking;
use super::refusal::{Asked, Refusal};
use super::{Error, Variables};
use crate::http::reply::segment;

/// The largest answer that is read, and the largest list, in octets.
pub(super) const ANSWER_BYTES_MAX: usize = 32 << 20;
/// How many items are asked for at once.
const PAGE: usize = 500;
/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a stream may be silent: the server sends a sign of life every 15 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// The longest token and the largest file with certificates, in octets.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A server, and the token to present there.
pub(super) struct Server {
    base: String,
    token: Zeroizing<String>,
    token_from: String,
    /// `LOGOUTD_CA_FILE`.
    ca_file: Option<String>,
    http: reqwest::Client,
}

/// What the server answered.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The HTTP status.
    pub(super) status: u16,
    /// As it came.
    pub(super) text: String,
    /// What it says; null for an empty answer.
    pub(super) value: Value,
}

impl Answer {
    /// The answer where it has these members: without them, what answered is not the server, and silence must not pass for good news.
    pub(super) fn with(self, members: &[&str]) -> Result<Self, Error> {
        if members.iter().all(|name| self.value.get(name).is_some()) { Ok(self) } else { Err(Error::Misunderstood) }
    }
}

/// A question.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    method: &'a Method,
    path: &'a str,
    body: Option<&'a Value>,
    headers: &'a [(&'static str, &'a str)],
}

/// What a list is asked for with.
pub(super) enum Listing<'a> {
    /// By GET.
    All,
    /// By POST, since what is looked for must not stand in a URL.
    Search(&'a Value),
}

impl Server {
    /// The server the command is to ask.
    pub(super) fn of(asking: &Asking, variables: &Variables) -> Result<Self, Error> {
        let variable = |name: &str| variables.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str());
        let base = base(asking.url.as_deref(), variable("LOGOUTD_URL"), Clear::said(variable("LOGOUTD_ALLOW_HTTP")))?;
        let (token, token_from) = token(variable("LOGOUTD_TOKEN"), variable("LOGOUTD_TOKEN_FILE"))?;
        let ca_file = variable("LOGOUTD_CA_FILE");
        let http = http_client(ca_file)?;
        Ok(Self { base, token, token_from, ca_file: ca_file.map(str::to_owned), http })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Answer, Error> {
        self.ask(Call { method: &Method::GET, path, body: None, headers: &[] }).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Answer, Error> {
        self.ask(Call { method: &Method::POST, path, body: Some(body), headers: &[] }).await
    }

    /// [`post`](Self::post) with headers.
    pub(super) async fn post_with(&self, path: &str, headers: &[(&'static str, &str)], body: &Value) -> Result<Answer, Error> {
        self.ask(Call { method: &Method::POST, path, body: Some(body), headers }).await
    }

    /// A POST without a body.
    pub(super) async fn order(&self, path: &str) -> Result<Answer, Error> {
        self.ask(Call { method: &Method::POST, path, body: None, headers: &[] }).await
    }

    pub(super) async fn put(&self, path: &str, body: &Value) -> Result<Answer, Error> {
        self.ask(Call { method: &Method::PUT, path, body: Some(body), headers: &[] }).await
    }

    pub(super) async fn patch(&self, path: &str, body: &Value) -> Result<Answer, Error> {
        self.ask(Call { method: &Method::PATCH, path, body: Some(body), headers: &[] }).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Answer, Error> {
        self.ask(Call { method: &Method::DELETE, path, body: None, headers: &[] }).await
    }

    /// A DELETE of what must not stand in a URL.
    pub(super) async fn delete_with(&self, path: &str, body: &Value) -> Result<Answer, Error> {
        self.ask(Call { method: &Method::DELETE, path, body: Some(body), headers: &[] }).await
    }

    /// A list as far as it is wanted: one page as it came, several as one.
    pub(super) async fn list(&self, path: &str, listing: Listing<'_>, limit: u32) -> Result<Answer, Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let (mut items, mut octets, mut after) = (Vec::new(), 0, None::<String>);
        loop {
            let wanted = PAGE.min(limit - items.len()).to_string();
            let path = query(path.to_owned(), [("limit", Some(wanted)), ("after", after.take())]);
            let mut answer = match listing {
                Listing::All => self.get(&path).await?,
                Listing::Search(body) => self.post(&path, body).await?,
            };
            octets += answer.text.len();
            if octets > ANSWER_BYTES_MAX {
                return Err(Error::TooMuch { bytes_max: ANSWER_BYTES_MAX });
            }
            let next = answer.value.get("next").and_then(Value::as_str).map(str::to_owned);
            let page = answer.value.get_mut("items").and_then(Value::as_array_mut).ok_or(Error::Misunderstood)?;
            let is_last = next.is_none() || page.is_empty() || items.len() + page.len() >= limit;
            if is_last && items.is_empty() {
                return Ok(answer);
            }
            items.append(page);
            if is_last {
                items.truncate(limit);
                let value = json!({ "items": items, "next": next });
                return Ok(Answer { status: answer.status, text: value.to_string(), value });
            }
            after = next;
        }
    }

    /// A stream of events, from its beginning or from where an earlier one broke off.
    pub(super) async fn follow(&self, path: &str, last: Option<&str>) -> Result<reqwest::Response, Error> {
        let unreachable = |source| self.unreachable(source);
        let request = self.http.get(format!("{}{path}", self.base)).bearer_auth(self.token.as_str()).header("Accept", "text/event-stream");
        let request = last.into_iter().fold(request, |request, last| request.header("Last-Event-ID", last));
        let response = request.send().await.map_err(unreachable)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let octets = self.read(response).await?;
        Err(self.refusal(status, &headers, &octets).await)
    }

    /// What is answered as a text that is not JSON.
    pub(super) async fn text(&self, path: &str) -> Result<String, Error> {
        let (status, headers, octets) = self.exchange(Call { method: &Method::GET, path, body: None, headers: &[] }).await?;
        match (200..300).contains(&status) {
            true => String::from_utf8(octets).map_err(|_| Error::Misunderstood),
            false => Err(self.refusal(status, &headers, &octets).await),
        }
    }

    /// One request and its answer.
    async fn ask(&self, call: Call<'_>) -> Result<Answer, Error> {
        let (status, headers, octets) = self.exchange(call).await?;
        if !(200..300).contains(&status) {
            return Err(self.refusal(status, &headers, &octets).await);
        }
        let text = String::from_utf8(octets).map_err(|_| Error::Misunderstood)?;
        let value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).map_err(|_| Error::Misunderstood)? };
        Ok(Answer { status, text, value })
    }

    async fn exchange(&self, call: Call<'_>) -> Result<(u16, HeaderMap, Vec<u8>), Error> {
        let Call { method, path, body, headers } = call;
        let request = self.http.request(method.clone(), format!("{}{path}", self.base)).bearer_auth(self.token.as_str());
        let request = headers.iter().fold(request.timeout(ANSWER_TIMEOUT), |request, (name, value)| request.header(*name, *value));
        let request = body.into_iter().fold(request, |request, body| request.json(body));
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok((status, headers, self.read(response).await?))
    }

    async fn read(&self, mut response: reqwest::Response) -> Result<Vec<u8>, Error> {
        let mut octets = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|source| self.unreachable(source))? {
            octets.extend_from_slice(&chunk);
            if octets.len() > ANSWER_BYTES_MAX {
                return Err(Error::TooMuch { bytes_max: ANSWER_BYTES_MAX });
            }
        }
        Ok(octets)
    }

    pub(super) fn unreachable(&self, source: reqwest::Error) -> Error {
        let base = &self.base;
        let advice = match (misspoken(&source, self.ca_file.as_deref()), source.is_connect()) {
            (Some(why), _) => format!("  {why}"),
            (None, true) => format!("  is it running? {base} is where it was looked for: LOGOUTD_URL or --url says another place"),
            (None, false) => format!("  {base} took the request, and no whole answer came back: ask again"),
        };
        Error::Unreachable { base: base.clone(), advice, source: source.without_url() }
    }

    /// What a refusal says, and where an issuer is not known, which ones are.
    async fn refusal(&self, status: u16, headers: &HeaderMap, octets: &[u8]) -> Error {
        let body = serde_json::from_slice(octets).unwrap_or(Value::Null);
        let asked = Asked { base: &self.base, token_from: &self.token_from };
        let mut refusal = Refusal::of(status, headers, &body, asked);
        if refusal.code == "unknown-issuer" {
            refusal.advise(&self.known_issuers().await);
        }
        Error::Refused(Box::new(refusal))
    }

    /// Which issuers there are, if the caller may know.
    async fn known_issuers(&self) -> String {
        let listed = self.exchange(Call { method: &Method::GET, path: "/v1/issuers?limit=20", body: None, headers: &[] }).await;
        let value =
            listed.ok().filter(|(status, ..)| *status == 200).and_then(|(_, _, octets)| serde_json::from_slice::<Value>(&octets).ok());
        let items = value.as_ref().and_then(|value| value.get("items")?.as_array());
        let names: Option<Vec<_>> =
            items.map(|items| items.iter().filter_map(|item| item.get("id")?.as_str()).map(super::plain::plain).collect());
        match names {
            Some(names) if names.is_empty() => "no issuer is registered yet: `logoutd issuer put FILE` registers one".to_owned(),
            Some(names) => format!("registered are: {}", names.join(", ")),
            None => "`logoutd issuer list` shows those that are registered, to those who may see them".to_owned(),
        }
    }
}

/// Whether the API token may travel in the clear beyond this machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clear {
    Refused,
    Allowed,
}

impl Clear {
    /// Only when it is said aloud.
    fn said(variable: Option<&str>) -> Self {
        if variable == Some("1") { Self::Allowed } else { Self::Refused }
    }
}

/// The server's URL without a slash at its end.
fn base(argument: Option<&str>, variable: Option<&str>, clear: Clear) -> Result<String, Error> {
    let url = argument.or(variable).unwrap_or("http://127.0.0.1:8080").trim_end_matches('/');
    // A password in it would be printed with it.
    let is_bare =
        |url: &url::Url| url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    let is_good = |url: &url::Url| matches!(url.scheme(), "http" | "https") && is_bare(url);
    match (url::Url::parse(url).ok().filter(is_good), argument) {
        (Some(parsed), _) if parsed.scheme() == "http" && !is_here(&parsed) && clear == Clear::Refused => {
            Err(Error::misuse(format!("{url} would show the API token to the network: use https, or allow it with LOGOUTD_ALLOW_HTTP=1")))
        }
        (Some(_), _) => Ok(url.to_owned()),
        (None, Some(_)) => Err(Error::misuse("--url must be an http(s) URL without a name or password in it")),
        (None, None) => Err(Error::Variable { name: "LOGOUTD_URL", why: "must be an http(s) URL without a name or password in it" }),
    }
}

/// Whether what is sent there stays on this machine.
fn is_here(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        // RFC 6761 6.3
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// The API token, and where it came from.
fn token(value: Option<&str>, file: Option<&str>) -> Result<(Zeroizing<String>, String), Error> {
    let (token, from) = match (value, file) {
        (Some(_), Some(_)) => return Err(Error::Variable { name: "LOGOUTD_TOKEN", why: "and LOGOUTD_TOKEN_FILE are both set: unset one" }),
        (None, None) => return Err(Error::Variable { name: "LOGOUTD_TOKEN", why: "must hold an API token" }),
        (Some(token), None) => (Zeroizing::new(token.to_owned()), "LOGOUTD_TOKEN".to_owned()),
        (None, Some(path)) => (content(Path::new(path))?, format!("LOGOUTD_TOKEN_FILE ({path})")),
    };
    let token = Zeroizing::new(token.trim().to_owned());
    match token.bytes().all(|octet| octet.is_ascii_graphic()) && !token.is_empty() {
        true => Ok((token, from)),
        false => Err(Error::Variable { name: "LOGOUTD_TOKEN", why: "or the file it is in must hold one API token and nothing else" }),
    }
}

/// What a file holds, or the standard input where it is `-`.
pub(super) fn content(path: &Path) -> Result<Zeroizing<String>, Error> {
    content_within(path, FILE_BYTES_MAX)
}

/// What a file holds that has so many octets at most: of a longer one nothing is taken, since the first part of it may mean something else.
pub(super) fn content_within(path: &Path, bytes_max: u64) -> Result<Zeroizing<String>, Error> {
    use std::io::Read as _;
    let mut text = Zeroizing::new(String::new());
    let opened: std::io::Result<Box<dyn std::io::Read>> = match path.to_str() {
        Some("-") => Ok(Box::new(std::io::stdin())),
        _ => std::fs::File::open(path).map(|file| Box::new(file) as _),
    };
    let read = opened.and_then(|reader| reader.take(bytes_max + 1).read_to_string(&mut text));
    match read.map(|octets| u64::try_from(octets).is_ok_and(|octets| octets <= bytes_max)) {
        Ok(true) => Ok(text),
        Ok(false) => Err(Error::misuse(format!("{} has more than {bytes_max} octets", path.display()))),
        Err(source) => Err(Error::File { path: path.to_owned(), source }),
    }
}

/// The JSON object a file holds.
pub(super) fn object_in(path: &Path) -> Result<Map<String, Value>, Error> {
    serde_json::from_str(&content(path)?).map_err(|error| Error::misuse(format!("{} holds no JSON object: {error}", path.display())))
}

/// What is wrong where both sides speak, and not the same. The libraries say it in words alone.
fn misspoken(error: &reqwest::Error, ca_file: Option<&str>) -> Option<String> {
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source()).map(ToString::to_string);
    causes.find_map(|cause| match cause {
        cause if cause.contains("InvalidContentType") => Some("it answers, but not by TLS: is it http:// and not https://?".to_owned()),
        cause if cause.contains("invalid HTTP version parsed") => {
            Some("it answers, but not by HTTP: is it https:// and not http://?".to_owned())
        }
        cause if cause.contains("invalid peer certificate") => Some(distrusted(ca_file)),
        _ => None,
    })
}

fn distrusted(ca_file: Option<&str>) -> String {
    match ca_file {
        None => "its certificate is not trusted here: LOGOUTD_CA_FILE names certificates to trust beside the system's".to_owned(),
        Some(file) => format!(
            "its certificate is not trusted here, although LOGOUTD_CA_FILE is set: {file} must hold the authority that signed the server's certificate. \
             One that is an authority itself, as `openssl req -x509` makes it, is not accepted as a server's"
        ),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this client talks to our own API at an address the operator chose; the address guard is for others"
)]
fn http_client(ca_file: Option<&str>) -> Result<reqwest::Client, Error> {
    const BAD: Error = Error::Variable { name: "LOGOUTD_CA_FILE", why: "must name a file with certificates in PEM" };
    let pem = ca_file.map(|path| content(Path::new(path))).transpose()?;
    let certificates = pem.map(|pem| reqwest::Certificate::from_pem_bundle(pem.as_bytes())).transpose().map_err(|_| BAD)?;
    // A file without any, such as that of a key, is read without a fault.
    if certificates.as_ref().is_some_and(Vec::is_empty) {
        return Err(BAD);
    }
    let builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(SILENCE_MAX);
    let builder = match certificates {
        Some(certificates) => builder.tls_certs_merge(certificates),
        None => builder,
    };
    builder.build().map_err(|_| BAD)
}

/// A path of the API, each segment percent-encoded. A segment of dots would be taken for a step up.
pub(super) fn route(segments: &[&str]) -> Result<String, Error> {
    match segments.iter().find(|segment| matches!(**segment, "" | "." | "..")) {
        Some(bad) => Err(Error::misuse(format!("\"{bad}\" cannot stand in a path: look for it with `list` instead"))),
        None => Ok(segments.iter().fold("/v1".to_owned(), |path, part| format!("{path}/{}", segment(part)))),
    }
}

/// The path with the parameters that have a value.
pub(super) fn query<'a>(path: String, parameters: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    parameters.into_iter().filter_map(|(name, value)| Some((name, value?))).fold(path, |path, (name, value)| {
        let separator = if path.contains('?') { '&' } else { '?' };
        format!("{path}{separator}{name}={}", segment(&value))
    })
}

/// An object of the members that have a value.
pub(super) fn body<'a>(members: impl IntoIterator<Item = (&'a str, Option<Value>)>) -> Value {
    Value::Object(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn variables(more: &[(&str, &str)]) -> Variables {
        more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn server(url: &str) -> Server {
        Server::of(&Asking { url: Some(url.to_owned()), json: false }, &variables(&[("LOGOUTD_TOKEN", "ldt_x")])).unwrap()
    }

    /// Posts to a server that answers these octets; what came of it, and the request as it was sent.
    async fn asked(answer: String) -> (Result<Answer, Error>, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let asking = server(&format!("http://{}/", listener.local_addr().unwrap()));
        let other_side = async {
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
        tokio::join!(asking.post("/v1/api-tokens", &body), other_side)
    }

    fn http(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn the_token_is_presented_and_the_answer_returned() {
        let (answer, request) = asked(http("201 Created", r#"{"id":"i","token":"ldt_new"}"#)).await;
        assert_eq!(answer.unwrap().value["token"], "ldt_new");
        assert!(request.starts_with("POST /v1/api-tokens HTTP/1.1\r\n") && request.contains("authorization: Bearer ldt_x"), "{request}");
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_words_of_its_problem_document() {
        let (answer, _) = asked(http("403 Forbidden", "{\"title\":\"forbidden\",\"detail\":\"not\\u001b[2J yours\"}")).await;
        assert_eq!(answer.unwrap_err().to_string(), "the server answered 403: forbidden: not[2J yours");
    }

    #[tokio::test]
    async fn an_answer_that_is_no_answer_or_has_no_end_is_not_understood() {
        assert!(matches!(asked(http("201 Created", "hello")).await.0, Err(Error::Misunderstood)));
        assert!(matches!(asked(http("200 OK", &"x".repeat(ANSWER_BYTES_MAX + 1))).await.0, Err(Error::TooMuch { .. })));
    }

    #[test]
    fn the_token_comes_from_one_place_and_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (good, bad) = (path("good", "ldt_x\n"), path("bad", "ldt_x\nldt_y\n"));
        let of = |given: &[(&str, &str)]| Server::of(&Asking::default(), &variables(given)).map(|server| server.token.to_string());
        assert_eq!(of(&[("LOGOUTD_TOKEN_FILE", &good)]).unwrap(), "ldt_x");
        for wrong in [
            &[][..],
            &[("LOGOUTD_TOKEN", "")],
            &[("LOGOUTD_TOKEN", "two words")],
            &[("LOGOUTD_TOKEN", "ldt_x"), ("LOGOUTD_TOKEN_FILE", &good)],
            &[("LOGOUTD_TOKEN_FILE", &bad)],
            &[("LOGOUTD_TOKEN", "ldt_x"), ("LOGOUTD_URL", "ftp://x")],
            &[("LOGOUTD_TOKEN", "ldt_x"), ("LOGOUTD_URL", "https://somebody:secret@there.example.com")],
        ] {
            assert!(matches!(of(wrong), Err(Error::Variable { .. })), "{wrong:?}");
        }
        assert!(matches!(of(&[("LOGOUTD_TOKEN_FILE", "/nowhere/at/all")]), Err(Error::File { .. })));
    }

    #[test]
    fn the_token_is_shown_to_no_network_unless_that_is_said_aloud() {
        let of = |url: &str, more: &[(&str, &str)]| {
            let asking = Asking { url: Some(url.to_owned()), json: false };
            Server::of(&asking, &variables(&[&[("LOGOUTD_TOKEN", "ldt_x")], more].concat())).map(|server| server.base)
        };
        for here in ["http://127.0.0.1:8080", "http://127.9.9.9", "http://[::1]:1", "http://localhost:8080", "https://logout.example.com"] {
            assert_eq!(of(here, &[]).unwrap(), here);
        }
        for away in ["http://10.1.2.3:8080", "http://logout.example.com", "http://localhost.example.com", "http://[::ffff:10.1.2.3]"] {
            assert!(matches!(of(away, &[]), Err(Error::Misuse { .. })), "{away}");
            assert!(matches!(of(away, &[("LOGOUTD_ALLOW_HTTP", "0")]), Err(Error::Misuse { .. })), "{away}");
            assert_eq!(of(away, &[("LOGOUTD_ALLOW_HTTP", "1")]).unwrap(), away);
        }
    }

    #[test]
    fn of_a_file_that_is_too_long_nothing_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        std::fs::write(&path, "s-1\ns-2").unwrap();
        assert_eq!(*content_within(&path, 7).unwrap(), "s-1\ns-2");
        assert!(matches!(content_within(&path, 6), Err(Error::Misuse { .. })));
    }

    #[test]
    fn a_name_in_a_path_never_becomes_a_step_and_never_a_parameter() {
        assert_eq!(route(&["issuers", "main", "clients", "a/b?c=d e"]).unwrap(), "/v1/issuers/main/clients/a%2Fb%3Fc%3Dd%20e");
        for steps in ["", ".", ".."] {
            assert!(matches!(route(&["issuers", "main", "clients", steps]), Err(Error::Misuse { .. })), "{steps}");
        }
        assert_eq!(query("/v1/a?b=c".to_owned(), [("d", Some("e&f".to_owned())), ("g", None)]), "/v1/a?b=c&d=e%26f");
    }
}
