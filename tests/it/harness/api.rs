//! A caller of the API: another program, with a client of its own.

use axum::http::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::DEADLINE;

/// Calls one server with one token, or with none.
#[derive(Clone)]
pub(crate) struct Api {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// The body, if it is JSON; else null.
    pub(crate) body: Value,
    pub(crate) text: String,
}

/// A client that is no part of logoutd.
#[expect(clippy::disallowed_methods, reason = "callers and relying parties are other programs, with clients of their own")]
pub(crate) fn http_client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().unwrap()
}

impl Api {
    /// Without a token.
    pub(crate) fn new(base: &str) -> Self {
        Self { http: http_client(), base: base.to_owned(), token: None }
    }

    /// Without a token, at a server that is vouched for by nobody else.
    #[expect(clippy::disallowed_methods, reason = "callers are other programs, with clients of their own")]
    pub(crate) fn trusting(base: &str, ca_pem: &str) -> Self {
        let authority = reqwest::Certificate::from_pem(ca_pem.as_bytes()).unwrap();
        let http = reqwest::Client::builder().no_proxy().timeout(DEADLINE).tls_certs_only([authority]).build().unwrap();
        Self { http, base: base.to_owned(), token: None }
    }

    /// The same server, with this token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The same server, without a token.
    pub(crate) fn without_token(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    /// The same caller at another address of this machine.
    #[expect(clippy::disallowed_methods, reason = "callers are other programs, with clients of their own")]
    pub(crate) fn at_address(&self, address: std::net::IpAddr) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(DEADLINE).local_address(address).build().unwrap();
        Self { http, ..self.clone() }
    }

    /// The token it shows.
    pub(crate) fn token(&self) -> &str {
        self.token.as_deref().unwrap()
    }

    /// A caller with an API token that this one mints.
    pub(crate) async fn mint(&self, token: Value) -> Self {
        let minted = self.post("/v1/api-tokens", token).await.expect(201);
        self.with_token(minted["token"].as_str().unwrap())
    }

    /// A request to be completed by hand.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        send(self.request(Method::POST, path).json(&body)).await
    }

    /// A POST without a body.
    pub(crate) async fn order(&self, path: &str) -> Answer {
        send(self.request(Method::POST, path)).await
    }

    /// With one more header.
    pub(crate) async fn post_with(&self, path: &str, header: (&str, &str), body: Value) -> Answer {
        send(self.request(Method::POST, path).header(header.0, header.1).json(&body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        send(self.request(Method::PUT, path).json(&body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        send(self.request(Method::PATCH, path).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    /// A form, as OAuth endpoints take it.
    pub(crate) async fn form(&self, path: &str, pairs: &[(&str, &str)]) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        send(self.request(Method::POST, path).header("Content-Type", "application/x-www-form-urlencoded").body(body)).await
    }

    /// What `POST /main/introspect` says of a token.
    pub(crate) async fn introspect(&self, token: &str) -> Value {
        self.form("/main/introspect", &[("token", token)]).await.expect(200)
    }

    /// The items of a list.
    pub(crate) async fn items(&self, path: &str) -> Vec<Value> {
        self.get(path).await.expect(200)["items"].as_array().unwrap().clone()
    }
}

/// Sends it, and reads all of the answer.
pub(crate) async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Answer { status, headers, body, text }
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body of an answer that must have this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.body
    }

    /// A header's value, or the empty string.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts that it is a problem document of this status and code, and hands it back.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{code}: {}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json", "{code}");
        assert_eq!(self.body["type"], json!(format!("urn:logoutd:problem:{code}")), "{}", self.text);
        assert_eq!(self.body["status"], json!(status), "{}", self.text);
        assert!(self.body["title"].as_str().is_some_and(|title| !title.is_empty()), "{}", self.text);
        self.body
    }
}
