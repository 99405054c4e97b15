//! What is sent and what came of it, as the other rooms see it.
//!
//! Owns the shapes of a request and of its answer. Never lets a header of ours be said twice, and never puts a secret where it could be read later.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::manner::Manner;
use crate::model::attempt::{Failure, Outcome};
use crate::model::client::Network;
use crate::model::{DeliveryId, Timestamp};

/// The largest body that is kept whole, in octets.
pub const WHOLE_OCTETS_MAX: usize = 64 * 1024;

/// A logout token to be posted (BCL 2.5).
#[derive(Clone, Copy)]
pub struct Post<'a> {
    /// The `backchannel_logout_uri`.
    pub url: &'a Url,
    /// The exceptions that apply.
    pub network: &'a Network,
    /// What the receiver asks for beside the token.
    pub manner: &'a Manner,
    /// The signed token.
    pub token: &'a str,
    /// The delivery, for the receiver's logs.
    pub delivery: &'a DeliveryId,
    /// Which attempt at it, from 1.
    pub attempt: u32,
    /// The limit from resolution to the end of the answer.
    pub timeout: Duration,
    /// The present instant, for a `Retry-After` that is a date.
    pub now: Timestamp,
}

impl<'a> Post<'a> {
    /// BCL 2.5. A JWT consists of characters that need no encoding in a form, and receivers exist that would not decode them.
    pub(super) fn body(&self) -> String {
        format!("logout_token={}", self.token)
    }

    pub(super) fn headers(&self, number: &'a str) -> Vec<(&'a str, &'a str)> {
        let ours = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("accept", "application/json"),
            ("logoutd-delivery", self.delivery.as_str()),
            ("logoutd-attempt", number),
        ];
        let theirs = self.manner.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        ours.into_iter().chain(theirs).collect()
    }

    pub(super) fn secrets(&self) -> Vec<&'a str> {
        std::iter::once(self.token).chain(self.manner.secrets()).collect()
    }

    pub(super) const fn request<'r>(&self, headers: &'r [(&'r str, &'r str)], secrets: &'r [&'r str]) -> Request<'r>
    where
        'a: 'r,
    {
        let Self { url, network, timeout, now, .. } = *self;
        Request { method: Method::Post, url, network, headers, body: &[], secrets, keep: Keep::Excerpt, timeout, now }
    }
}

/// The methods that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`.
    Get,
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `DELETE`.
    Delete,
    /// `PATCH`.
    Patch,
}

impl From<Method> for reqwest::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Get => Self::GET,
            Method::Post => Self::POST,
            Method::Put => Self::PUT,
            Method::Delete => Self::DELETE,
            Method::Patch => Self::PATCH,
        }
    }
}

/// What is kept of the body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Of a 4xx its beginning, cleaned; of anything else nothing.
    Excerpt,
    /// Of a 2xx all of it, if it is not larger than this, nor than [`WHOLE_OCTETS_MAX`]; of a 4xx as above.
    Whole {
        /// The limit, in octets.
        octets_max: usize,
    },
}

/// A request to be sent, once.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// Where to; checked here before every request.
    pub url: &'a Url,
    /// The exceptions that apply.
    pub network: &'a Network,
    /// Names and values, each name once. `Host`, `Content-Length`, `User-Agent` and what concerns the connection are said by this room.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body; empty for none.
    pub body: &'a [u8],
    /// What must not be found in an excerpt: tokens and passwords this request carries, as they stand in it and without the word before them.
    pub secrets: &'a [&'a str],
    /// What is kept of the answer's body.
    pub keep: Keep,
    /// The limit from resolution to the end of the answer.
    pub timeout: Duration,
    /// The present instant, for a `Retry-After` that is a date.
    pub now: Timestamp,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status, or why there is none.
    pub outcome: Outcome,
    /// The address the answer came from.
    pub remote_addr: Option<SocketAddr>,
    /// The beginning of a 4xx body, tokens and control characters removed.
    pub excerpt: Option<String>,
    /// The body of a 2xx, where all of it was asked for and all of it came. It may hold secrets: it is not for logs.
    pub body: Option<Vec<u8>>,
    /// Why there is no status, in one line without URL and token.
    pub detail: Option<String>,
}

impl Answer {
    pub(super) const fn failed(failure: Failure, detail: String) -> Self {
        Self { outcome: Outcome::Failed(failure), remote_addr: None, excerpt: None, body: None, detail: Some(detail) }
    }

    pub(super) const fn answered(status: u16, retry_after: Option<Duration>) -> Self {
        Self { outcome: Outcome::Answered { status, retry_after }, remote_addr: None, excerpt: None, body: None, detail: None }
    }
}

/// A header that cannot be sent. Its value may be a secret, so it is not told.
#[derive(Debug, thiserror::Error)]
#[error("the header {0:?} cannot be sent")]
pub(super) struct BadHeader(String);

/// Names and values as the client takes them; all values are hidden from whoever prints them.
pub(super) fn headers_of(said: &[(&str, &str)]) -> Result<HeaderMap, BadHeader> {
    let mut headers = HeaderMap::with_capacity(said.len());
    for (name, value) in said {
        let bad = || BadHeader((*name).chars().take(64).collect());
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
        value.set_sensitive(true);
        if headers.insert(header, value).is_some() {
            return Err(bad());
        }
    }
    Ok(headers)
}
