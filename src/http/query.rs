//! Query strings and paths, with problems instead of plain text.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::form::pairs;
use super::problem::{Code, FieldError, Problem};

/// A query string into a type with `deny_unknown_fields`, each of whose members is an `Option<Text<_>>`.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parse_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// Parses a query string.
pub fn parse_query<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    let members = pairs(text.as_bytes())?.into_iter().map(|(name, value)| (name, serde_json::Value::String(value))).collect();
    serde_path_to_error::deserialize(serde_json::Value::Object(members)).map_err(|error| {
        let sentence = error.inner().to_string();
        let code = if sentence.starts_with("unknown field") { Code::UnknownParameter } else { Code::InvalidParameter };
        let clip = |text: &str| text.chars().take(200).collect::<String>();
        Problem::of(code).at(FieldError::parameter(clip(&error.path().to_string()), clip(&sentence)))
    })
}

/// The parameters of the path, decoded.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let malformed = || Problem::new(Code::MalformedRequest, "the path is not percent-encoded UTF-8");
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(_) => Err(malformed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::wire::Text;
    use crate::model::Timestamp;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Since {
        since: Option<Text<Timestamp>>,
    }

    #[test]
    fn a_parameter_is_parsed_by_the_rule_of_its_type() {
        assert!(parse_query::<Since>("").unwrap().since.is_none());
        assert!(parse_query::<Since>("since=2026-01-01T00:00:00%2B01:00").unwrap().since.is_some());
    }

    #[test]
    fn a_wrong_an_unknown_and_a_repeated_parameter_are_refused_by_name() {
        for (text, code, name) in [
            ("since=soon", Code::InvalidParameter, "since"),
            ("sinse=2026-01-01T00:00:00Z", Code::UnknownParameter, "sinse"),
            ("since=2026-01-01T00:00:00Z&since=2026-01-01T00:00:00Z", Code::MalformedRequest, "since"),
        ] {
            let problem = parse_query::<Since>(text).unwrap_err();
            assert_eq!(problem.code(), code, "{text}");
            assert_eq!(problem.errors().first().and_then(|e| e.parameter.as_deref()), Some(name), "{text}");
        }
    }
}
