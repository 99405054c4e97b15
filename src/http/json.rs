//! JSON bodies, read strictly.
//!
//! One pass over the octets refuses what JSON parsers usually let pass (duplicate names, deep nesting); a second one builds the type and knows where
//! it stands, so that a problem names the member by a JSON pointer. Values are the model's business.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use axum::body::{Body, BodyDataStream, HttpBody as _};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use futures_util::StreamExt as _;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::problem::{Code, FieldError, Problem};
use super::state::AppState;

/// How deep a JSON body may nest.
pub const DEPTH_MAX: usize = 32;
/// How many ignored members of a registration are named in its answer.
const IGNORED_MAX: usize = 100;
/// How much of a parser's sentence is repeated to the caller.
const DETAIL_CHARS_MAX: usize = 200;

/// A JSON body whose every member is known.
#[derive(Clone, Copy, Debug)]
pub struct StrictJson<T>(pub T);

impl<T: DeserializeOwned> FromRequest<AppState> for StrictJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let body = read(&parts.headers, body, "application/json", app.settings.body_bytes_max).await?;
        parse(&body).map(Self)
    }
}

/// No body, or an empty object: for routes that are told everything by their path.
#[derive(Clone, Copy, Debug)]
pub struct NoBody;

/// An object without members.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl FromRequest<AppState> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        if body.is_end_stream() {
            return Ok(Self);
        }
        let body = read(&parts.headers, body, "application/json", app.settings.body_bytes_max).await?;
        parse::<Nothing>(&body).map(|Nothing {}| Self)
    }
}

/// A JSON body of the registration kind: members nobody knows are ignored, and named.
#[derive(Clone, Debug)]
pub struct Registration<T> {
    /// What was understood.
    pub body: T,
    /// The members that were not, as `a.b`.
    pub ignored: Vec<String>,
}

impl<T: DeserializeOwned> FromRequest<AppState> for Registration<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let body = read(&parts.headers, body, "application/json", app.settings.body_bytes_max).await?;
        parse_registration(&body)
    }
}

/// Reads a body of one media type, up to a number of octets.
pub(super) async fn read(headers: &HeaderMap, body: Body, media_type: &str, bytes_max: usize) -> Result<Vec<u8>, Problem> {
    if !is_media_type(headers, media_type) {
        let detail = format!("must be {media_type}, in UTF-8 and without a content coding");
        return Err(Problem::of(Code::UnsupportedMediaType).at(FieldError::header("content-type", detail)));
    }
    let too_large = || Problem::new(Code::BodyTooLarge, format!("the body has more than {bytes_max} octets; nothing was done"));
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok()).unwrap_or(0);
    let mut chunks = body.into_data_stream();
    if announced > bytes_max {
        // Who waits for a word before sending is answered at once.
        if !headers.contains_key(EXPECT) {
            drain(&mut chunks, bytes_max).await;
        }
        return Err(too_large());
    }
    let mut octets = Vec::with_capacity(announced);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Problem::new(Code::MalformedRequest, "the body broke off"))?;
        if octets.len() + chunk.len() > bytes_max {
            drain(&mut chunks, bytes_max).await;
            return Err(too_large());
        }
        octets.extend_from_slice(&chunk);
    }
    Ok(octets)
}

/// Reads on and keeps nothing, so that a caller who is still sending hears the answer instead of a broken connection. At most twice what a body may have.
async fn drain(chunks: &mut BodyDataStream, bytes_max: usize) {
    let mut left = 2 * bytes_max;
    while let Some(Ok(chunk)) = chunks.next().await {
        match left.checked_sub(chunk.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn is_media_type(headers: &HeaderMap, media_type: &str) -> bool {
    let mut given = headers.get_all(CONTENT_TYPE).iter();
    let (Some(Ok(only)), None) = (given.next().map(|value| value.to_str()), given.next()) else { return false };
    let mut parts = only.split(';').map(str::trim);
    let essence_fits = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case(media_type));
    let charset_fits = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.eq_ignore_ascii_case("charset") => value.trim_matches('"').eq_ignore_ascii_case("utf-8"),
        Some(_) | None => true,
    });
    let coding_fits = headers.get_all(CONTENT_ENCODING).iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    essence_fits && charset_fits && coding_fits
}

/// Parses a body whose every member is known.
pub fn parse<T: DeserializeOwned>(octets: &[u8]) -> Result<T, Problem> {
    check_shape(octets)?;
    let mut deserializer = serde_json::Deserializer::from_slice(octets);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| field_problem(&error))
}

/// Parses a registration, collecting the members nobody knows.
pub fn parse_registration<T: DeserializeOwned>(octets: &[u8]) -> Result<Registration<T>, Problem> {
    check_shape(octets)?;
    let mut ignored = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(octets);
    let mut collect = |path: serde_ignored::Path<'_>| {
        if ignored.len() < IGNORED_MAX {
            ignored.push(clip(&dotted(&path)));
        }
    };
    let collecting = serde_ignored::Deserializer::new(&mut deserializer, &mut collect);
    let body = serde_path_to_error::deserialize(collecting).map_err(|error| field_problem(&error))?;
    Ok(Registration { body, ignored })
}

/// A problem from serde's sentence and the place where it was said.
fn field_problem(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let sentence = error.inner().to_string();
    // serde_json appends where in the text it stood; the pointer says it better.
    let detail = sentence.rsplit_once(" at line ").map_or(sentence.as_str(), |(before, _)| before);
    // The first pass has read all of it as JSON, so what does not fit is a value, also where serde_json calls it a matter of syntax.
    let code = if detail.starts_with("unknown field") { Code::UnknownMember } else { Code::InvalidField };
    let place = pointer_of(error.path());
    // serde blames the object for a member that is not there; whoever reads the problem looks for the member.
    match detail.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        Some(name) => Problem::of(code).at(FieldError::pointer(format!("{place}/{}", escape(name)), "is missing")),
        None => Problem::of(code).at(FieldError::pointer(place, clip(&discreet(detail)))),
    }
}

/// serde's sentence about a wrong type without the text it was given, which may be a secret put in the wrong place, and without the names of our types.
fn discreet(detail: &str) -> String {
    let Some((before, expected)) = detail.rsplit_once(", expected ") else { return detail.to_owned() };
    let before = match before.split_once("string \"") {
        Some((kind, _)) if before.starts_with("invalid ") => format!("{kind}a string"),
        Some(_) | None => before.to_owned(),
    };
    let of_ours = ["struct ", "internally tagged enum "].iter().any(|kind| expected.starts_with(kind));
    let expected = if of_ours { "an object" } else { expected };
    format!("{before}, expected {expected}")
}

fn pointer_of(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |pointer, segment| match segment {
        Segment::Seq { index } => format!("{pointer}/{index}"),
        Segment::Map { key } => format!("{pointer}/{}", escape(key)),
        // The variant is no member of its own where enums are tagged inside.
        Segment::Enum { .. } | Segment::Unknown => pointer,
    })
}

fn dotted(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path as P;
    let join = |parent: &P<'_>, name: &str| match dotted(parent) {
        outer if outer.is_empty() => name.to_owned(),
        outer => format!("{outer}.{name}"),
    };
    match path {
        P::Root => String::new(),
        P::Seq { parent, index } => join(parent, &index.to_string()),
        P::Map { parent, key } => join(parent, key),
        P::Some { parent } | P::NewtypeStruct { parent } | P::NewtypeVariant { parent } => dotted(parent),
    }
}

/// One reference token of a JSON pointer (RFC 6901 3).
fn escape(name: &str) -> String {
    clip(name).replace('~', "~0").replace('/', "~1")
}

fn clip(text: &str) -> String {
    text.chars().take(DETAIL_CHARS_MAX).collect()
}

/// Refuses duplicate names, deep nesting, broken syntax and broken UTF-8 before anything is built.
fn check_shape(octets: &[u8]) -> Result<(), Problem> {
    let place = Place::default();
    let mut deserializer = serde_json::Deserializer::from_slice(octets);
    let outcome = Shape(&place).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    outcome.map_err(|error| match place.code.into_inner() {
        Some(code) => Problem::of(code).at(FieldError::pointer(place.path.into_inner().join(""), code.title().to_lowercase())),
        None => Problem::new(Code::MalformedJson, clip(&error.to_string())),
    })
}

/// Where the first pass stands, and what it found.
#[derive(Default)]
struct Place {
    path: RefCell<Vec<String>>,
    code: RefCell<Option<Code>>,
}

impl Place {
    fn fault<E: de::Error>(&self, code: Code) -> E {
        self.code.replace(Some(code));
        E::custom(code.title())
    }

    /// Goes one level deeper while `inside` runs. On a fault the path stays as it is, for the report.
    fn within<T, E: de::Error>(&self, step: String, inside: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.path.borrow_mut().push(step);
        if self.path.borrow().len() > DEPTH_MAX {
            return Err(self.fault(Code::TooDeep));
        }
        let value = inside()?;
        self.path.borrow_mut().pop();
        Ok(value)
    }
}

struct Shape<'a>(&'a Place);

impl<'de> DeserializeSeed<'de> for Shape<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shape<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        while self.0.within(format!("/{index}"), || items.next_element_seed(Shape(self.0)))?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            let step = format!("/{}", escape(&name));
            let twice = !seen.insert(name);
            self.0
                .within(step, || if twice { Err(self.0.fault(Code::DuplicateMember)) } else { members.next_value_seed(Shape(self.0)) })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::wire::Text;
    use crate::model::{Sid, Timestamp};
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only its parsing matters")]
        sid: Text<Sid>,
        #[serde(default)]
        #[expect(dead_code, reason = "only its parsing matters")]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only its parsing matters")]
        at: Text<Timestamp>,
    }

    #[derive(Debug, Deserialize)]
    struct Open {
        name: String,
        delivery: Option<OpenDelivery>,
    }

    #[derive(Debug, Deserialize)]
    struct OpenDelivery {
        timeout_ms: Option<u64>,
    }

    fn refused(text: &str) -> (Code, String) {
        let problem = parse::<Outer>(text.as_bytes()).expect_err(text);
        let pointer = problem.errors().first().and_then(|error| error.pointer.clone()).unwrap_or_default();
        (problem.code(), pointer)
    }

    #[test]
    fn a_wrong_value_is_named_by_its_json_pointer() {
        assert_eq!(refused(r#"{"sid":7}"#), (Code::InvalidField, "/sid".into()));
        assert_eq!(refused(r#"{"sid":""}"#), (Code::InvalidField, "/sid".into()));
        assert_eq!(
            refused(r#"{"sid":"a","inner":[{"at":"2026-01-01T00:00:00Z"},{"at":"soon"}]}"#),
            (Code::InvalidField, "/inner/1/at".into())
        );
        assert_eq!(refused(r#"{"inner":[]}"#), (Code::InvalidField, "/sid".into()));
        assert_eq!(refused(r#"{"sid":"a","inner":[{}]}"#), (Code::InvalidField, "/inner/0/at".into()));
    }

    #[test]
    fn a_text_in_the_wrong_place_is_not_repeated() {
        let sentence = |text: &str| {
            let problem = parse::<Outer>(text.as_bytes()).unwrap_err();
            problem.errors().first().unwrap().detail.to_string()
        };
        for text in [r#"{"sid":"a","inner":"S3C\", expected RET"}"#, r#"{"sid":"a","inner":["S3CRET"]}"#] {
            let said = sentence(text);
            assert!(said.starts_with("invalid type: a string, expected ") && !said.contains("S3C") && !said.contains("RET"), "{said}");
        }
        assert_eq!(sentence(r#"{"sid":"a","inner":["S3CRET"]}"#), "invalid type: a string, expected an object");
    }

    #[test]
    fn an_unknown_member_is_refused_and_named() {
        assert_eq!(refused(r#"{"sid":"a","sud":"b"}"#), (Code::UnknownMember, "/sud".into()));
        assert_eq!(
            refused(r#"{"sid":"a","inner":[{"at":"2026-01-01T00:00:00Z","x/y~":1}]}"#),
            (Code::UnknownMember, "/inner/0/x~1y~0".into())
        );
    }

    #[test]
    fn a_duplicate_name_is_refused_wherever_it_is() {
        assert_eq!(refused(r#"{"sid":"a","sid":"a"}"#), (Code::DuplicateMember, "/sid".into()));
        assert_eq!(refused(r#"{"sid":"a","x":[{"y":{"z":1,"z":2}}]}"#), (Code::DuplicateMember, "/x/0/y/z".into()));
        assert_eq!(refused("{\"sid\":\"a\",\"s\\u0069d\":\"b\"}"), (Code::DuplicateMember, "/sid".into()));
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(check_shape(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert_eq!(check_shape(nested(DEPTH_MAX + 1).as_bytes()).map_err(|p| p.code()), Err(Code::TooDeep));
        assert_eq!(check_shape("[".repeat(100_000).as_bytes()).map_err(|p| p.code()), Err(Code::TooDeep));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "{}x", "nope", "{\"sid\":\"a\"}{}", "\u{feff}{}"] {
            assert_eq!(refused(text).0, Code::MalformedJson, "{text}");
        }
        assert_eq!(parse::<Outer>(b"{\"sid\":\"\xff\"}").map_err(|p| p.code()).map(|_| ()), Err(Code::MalformedJson));
    }

    #[test]
    fn a_registration_names_what_it_ignores() {
        let body = br#"{"name":"wiki","redirect_uris":["a"],"delivery":{"timeout_ms":1,"rate_per_s":5}}"#;
        let Registration { body, ignored } = parse_registration::<Open>(body).unwrap();
        assert_eq!((body.name.as_str(), body.delivery.and_then(|d| d.timeout_ms)), ("wiki", Some(1)));
        assert_eq!(ignored, ["redirect_uris", "delivery.rate_per_s"]);
    }

    #[test]
    fn a_wrong_value_in_a_registration_is_named_too() {
        let problem = parse_registration::<Open>(br#"{"name":"wiki","delivery":{"timeout_ms":"1"}}"#).unwrap_err();
        assert_eq!(problem.errors().first().and_then(|e| e.pointer.as_deref()), Some("/delivery/timeout_ms"));
    }

    #[test]
    fn only_utf_8_json_without_a_coding_is_taken() {
        let with = |name, value: &'static str| HeaderMap::from_iter([(name, axum::http::HeaderValue::from_static(value))]);
        for fine in ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""] {
            assert!(is_media_type(&with(CONTENT_TYPE, fine), "application/json"), "{fine}");
        }
        for wrong in ["text/plain", "application/jsonp", "application/json; charset=latin1", ""] {
            assert!(!is_media_type(&with(CONTENT_TYPE, wrong), "application/json"), "{wrong}");
        }
        assert!(!is_media_type(&HeaderMap::new(), "application/json"));
        let mut compressed = with(CONTENT_TYPE, "application/json");
        compressed.insert(CONTENT_ENCODING, axum::http::HeaderValue::from_static("gzip"));
        assert!(!is_media_type(&compressed, "application/json"));
    }

    proptest! {
        #[test]
        fn no_octets_at_all_make_the_parser_panic(octets: Vec<u8>) {
            let outcome = parse::<Outer>(&octets);
            prop_assert!(outcome.is_err());
        }

        #[test]
        fn what_serde_writes_passes_the_shape(names in proptest::collection::hash_set("\\PC{0,8}", 0..8)) {
            let object: serde_json::Map<_, _> = names.into_iter().map(|name| (name, json!([1, "a", null]))).collect();
            prop_assert!(check_shape(&serde_json::to_vec(&object).unwrap()).is_ok());
        }
    }
}
