//! Answers that are no problems: the statuses of success and the headers that go with them.

use axum::Json;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::problem::Problem;
use crate::token::digest_of_token;

/// An answer in JSON.
#[derive(Clone, Debug)]
pub struct Reply<T> {
    status: StatusCode,
    headers: HeaderMap,
    body: Option<T>,
}

impl<T: Serialize> Reply<T> {
    /// 200: here it is, or it was so already.
    pub fn ok(body: T) -> Self {
        Self { status: StatusCode::OK, headers: HeaderMap::new(), body: Some(body) }
    }

    /// 201: it was made, or it is finished.
    pub fn created(body: T) -> Self {
        Self { status: StatusCode::CREATED, ..Self::ok(body) }
    }

    /// 202: it is certain and goes on.
    pub fn accepted(body: T) -> Self {
        Self { status: StatusCode::ACCEPTED, ..Self::ok(body) }
    }

    /// Says where the thing is, by a path that is percent-encoded already.
    #[must_use]
    pub fn location(mut self, path: &str) -> Self {
        self.headers.extend(HeaderValue::from_str(path).ok().map(|path| (LOCATION, path)));
        self
    }

    /// Says which version of the thing this is.
    #[must_use]
    pub fn version(mut self, version: i64) -> Self {
        self.headers.extend(HeaderValue::from_str(&format!("\"{version}\"")).ok().map(|tag| (ETAG, tag)));
        self
    }
}

impl Reply<()> {
    /// 204: done, nothing to say.
    pub fn done() -> Self {
        Self { status: StatusCode::NO_CONTENT, headers: HeaderMap::new(), body: None }
    }
}

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        match self.body {
            Some(body) => (self.status, self.headers, Json(body)).into_response(),
            None => (self.status, self.headers).into_response(),
        }
    }
}

/// A value as one segment of a path: everything but unreserved characters percent-encoded (RFC 3986 2.3).
pub fn segment(value: &str) -> String {
    let mut segment = String::with_capacity(value.len());
    for octet in value.bytes() {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => segment.push(char::from(octet)),
            _ => segment.extend(['%', hex(octet >> 4), hex(octet & 15)]),
        }
    }
    segment
}

fn hex(digit: u8) -> char {
    char::from_digit(digit.into(), 16).map_or('0', |digit| digit.to_ascii_uppercase())
}

/// A public document in JSON that may be kept for a while, or word that the caller's copy is still good (RFC 9110 13.1.2).
#[derive(Clone, Debug)]
pub struct Cached {
    tag: String,
    max_age_s: u32,
    body: Option<String>,
}

/// Answers with the document, unless `If-None-Match` names it.
pub fn cached(headers: &HeaderMap, document: String, max_age_s: u32) -> Cached {
    let tag = format!("\"{}\"", digest_of_token(document.as_bytes()));
    let asked = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let known = asked.map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag);
    Cached { tag, max_age_s, body: (!known).then_some(document) }
}

impl IntoResponse for Cached {
    fn into_response(self) -> Response {
        let headers = [(ETAG, self.tag), (CACHE_CONTROL, format!("public, max-age={}", self.max_age_s))];
        match self.body {
            Some(body) => (headers, [(CONTENT_TYPE, "application/json")], body).into_response(),
            None => (StatusCode::NOT_MODIFIED, headers).into_response(),
        }
    }
}

/// The version `If-Match` asks for; none when the caller does not care.
pub fn if_match(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let malformed = || Problem::invalid_header(&IF_MATCH, "must be one entity tag of an earlier answer, or *");
    let mut given = headers.get_all(IF_MATCH).iter();
    match (given.next(), given.next()) {
        (None, _) => Ok(None),
        (Some(tag), None) if tag == "*" => Ok(None),
        (Some(tag), None) => {
            let version = tag.to_str().ok().and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok());
            version.map(Some).ok_or_else(malformed)
        }
        (Some(_), Some(_)) => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(tag: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_static(tag))])
    }

    #[test]
    fn a_version_goes_out_as_a_tag_and_comes_back_as_a_number() {
        let response = Reply::ok(1).version(7).into_response();
        let headers = HeaderMap::from_iter([(IF_MATCH, response.headers()[ETAG].clone())]);
        assert_eq!(if_match(&headers).unwrap(), Some(7));
        assert_eq!(if_match(&HeaderMap::new()).unwrap(), None);
        assert_eq!(if_match(&with("*")).unwrap(), None);
    }

    #[test]
    fn weak_several_and_foreign_tags_are_refused() {
        for tag in ["W/\"7\"", "\"7\", \"8\"", "7", "\"abc\"", ""] {
            assert!(if_match(&with(tag)).is_err(), "{tag}");
        }
    }

    #[test]
    fn a_document_is_sent_once_and_again_when_it_changed() {
        let first = cached(&HeaderMap::new(), "{}".into(), 300).into_response();
        assert_eq!((first.status(), &first.headers()[CACHE_CONTROL]), (StatusCode::OK, &HeaderValue::from_static("public, max-age=300")));
        let tag = first.headers()[ETAG].to_str().unwrap();
        let with = |tag: &str| HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_str(tag).unwrap())]);
        for same in [tag, &format!("\"x\", W/{tag}"), "*"] {
            let again = cached(&with(same), "{}".into(), 300).into_response();
            assert_eq!((again.status(), &again.headers()[ETAG]), (StatusCode::NOT_MODIFIED, &first.headers()[ETAG]), "{same}");
        }
        assert_eq!(cached(&with(tag), "{\"a\":1}".into(), 300).into_response().status(), StatusCode::OK);
    }
}
