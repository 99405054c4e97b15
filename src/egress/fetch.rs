//! Reading a document that somebody publishes: metadata, keys.
//!
//! Never follows a redirect, never reads more than it was told to, and passes the same guard as everything that leaves.

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::manner::Manner;
use super::pool::Way;
use super::{Egress, Unsent, outcome};
use crate::model::attempt::Failure;
use crate::model::client::Network;

/// A document to be read.
#[derive(Clone, Copy, Debug)]
pub struct Fetch<'a> {
    /// Where it is.
    pub url: &'a Url,
    /// The exceptions that apply.
    pub network: &'a Network,
    /// What is understood.
    pub accept: &'static str,
    /// How much of it is read, in octets; more is refused.
    pub octets_max: usize,
    /// The limit from resolution to its last octet.
    pub timeout: Duration,
}

/// A document as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The status; 200 unless something is wrong with it.
    pub status: u16,
    /// What it says it is.
    pub content_type: Option<String>,
    /// All of it.
    pub body: Vec<u8>,
}

/// Why a document could not be read. None of it tells what the document said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The URL, or the address behind it, is not one we may reach.
    #[error("{0}")]
    Blocked(String),
    /// No answer, or none that ended.
    #[error("{0}")]
    Failed(String),
    /// More than was asked for.
    #[error("it is longer than {0} octets")]
    TooLong(usize),
}

impl Egress {
    /// Reads a document, all of it or nothing.
    pub async fn fetch(&self, fetch: Fetch<'_>) -> Result<Fetched, FetchError> {
        let pool = self.open(fetch.url, fetch.network, &Manner::PLAIN).await.map_err(unsent)?;
        let request = pool.request(Method::GET, fetch.url).timeout(fetch.timeout).header(ACCEPT, HeaderValue::from_static(fetch.accept));
        let request = request.headers(super::with_trace(HeaderMap::new()));
        let response = request.send().await.map_err(|error| failed(error, &pool.terms.way))?;
        self.note_date(fetch.url, &response);
        let tripped = |remote| pool.tripped(remote, self.config.proxy.as_ref());
        if let Some(detail) = response.remote_addr().and_then(tripped) {
            return Err(FetchError::Blocked(detail));
        }
        read(response, fetch.octets_max).await
    }
}

fn failed(error: reqwest::Error, way: &Way) -> FetchError {
    let failure = outcome::failure(&error, way);
    unsent(Unsent { failure, detail: outcome::detail(error) })
}

fn unsent(Unsent { failure, detail }: Unsent) -> FetchError {
    if failure == Failure::Blocked { FetchError::Blocked(detail) } else { FetchError::Failed(detail) }
}

async fn read(mut response: Response, octets_max: usize) -> Result<Fetched, FetchError> {
    let status = response.status();
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    // What a refusal says is of no use here.
    let body = if status == StatusCode::OK { whole(&mut response, octets_max).await? } else { Vec::new() };
    Ok(Fetched { status: status.as_u16(), content_type, body })
}

async fn whole(response: &mut Response, octets_max: usize) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| FetchError::Failed(outcome::detail(error)))? {
        if body.len() + chunk.len() > octets_max {
            return Err(FetchError::TooLong(octets_max));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
