//! `application/x-www-form-urlencoded`, strictly: for OAuth endpoints and for query strings.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;

use super::json::read;
use super::problem::{Code, FieldError, OauthError, Problem};

/// The largest form body.
pub const FORM_BYTES_MAX: usize = 64 << 10;
/// How many parameters a form or a query may have.
const PARAMETERS_MAX: usize = 100;

/// The parameters of an OAuth request. Unknown ones are ignored, empty ones count as left out, repeated ones are refused (RFC 6749 3.2).
#[derive(Clone, Debug, Default)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// A parameter that may be left out.
    pub fn optional(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// A parameter that must be there.
    pub fn required(&self, name: &'static str) -> Result<&str, OauthError> {
        let missing = || Problem::of(Code::MalformedRequest).at(FieldError::parameter(name, "is missing"));
        Ok(self.optional(name).ok_or_else(missing)?)
    }
}

impl Form {
    /// Reads the body of a request.
    pub(super) async fn of(headers: &HeaderMap, body: Body) -> Result<Self, Problem> {
        pairs(&read(headers, body, "application/x-www-form-urlencoded", FORM_BYTES_MAX).await?).map(Self)
    }
}

#[cfg(test)]
impl From<Vec<(String, String)>> for Form {
    fn from(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }
}

/// The same, for endpoints whose requests are smaller.
#[derive(Clone, Debug)]
pub struct FormUpTo<const OCTETS: usize>(pub Form);

impl<S: Send + Sync, const OCTETS: usize> FromRequest<S> for FormUpTo<OCTETS> {
    type Rejection = OauthError;

    async fn from_request(request: Request, _: &S) -> Result<Self, OauthError> {
        let (parts, body) = request.into_parts();
        let octets = read(&parts.headers, body, "application/x-www-form-urlencoded", OCTETS).await?;
        Ok(Self(Form(pairs(&octets)?)))
    }
}

/// Splits and decodes; refuses repeated names, broken percent-encoding and what is not UTF-8.
pub(super) fn pairs(octets: &[u8]) -> Result<Vec<(String, String)>, Problem> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for piece in octets.split(|octet| *octet == b'&').filter(|piece| !piece.is_empty()) {
        let mut halves = piece.splitn(2, |octet| *octet == b'=');
        let mut half = || decode(halves.next().unwrap_or_default());
        let (name, value) = (half()?, half()?);
        if pairs.iter().any(|(own, _)| *own == name) {
            return Err(Problem::of(Code::MalformedRequest).at(FieldError::parameter(name, "must not appear twice")));
        }
        if pairs.len() == PARAMETERS_MAX {
            return Err(Problem::new(Code::MalformedRequest, format!("there are more than {PARAMETERS_MAX} parameters")));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

pub(super) fn decode(text: &[u8]) -> Result<String, Problem> {
    let broken = || Problem::new(Code::MalformedRequest, "a parameter is not percent-encoded UTF-8");
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let (octet, tail) = match (first, tail) {
            (b'+', _) => (b' ', tail),
            (b'%', [high, low, tail @ ..]) => (hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l).ok_or_else(broken)?, tail),
            (b'%', _) => return Err(broken()),
            (other, _) => (*other, tail),
        };
        octets.push(octet);
        rest = tail;
    }
    String::from_utf8(octets).map_err(|_| broken())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_decoded() {
        let form = Form(pairs(b"token=a%2Bb+c&token_type_hint=&x").unwrap());
        assert_eq!(form.optional("token"), Some("a+b c"));
        assert_eq!(form.optional("token_type_hint"), None);
        assert!(form.required("client_id").is_err());
    }

    #[test]
    fn repeated_and_broken_parameters_are_refused() {
        for text in ["token=a&token=b", "token=a&t%6Fken=b", "token=%", "token=%4", "token=%zz", "token=%ff"] {
            assert_eq!(pairs(text.as_bytes()).map_err(|p| p.code()), Err(Code::MalformedRequest), "{text}");
        }
    }

    #[test]
    fn the_number_of_parameters_is_bounded() {
        let many = |n: usize| (0..n).map(|i| format!("p{i}=1")).collect::<Vec<_>>().join("&");
        assert!(pairs(many(PARAMETERS_MAX).as_bytes()).is_ok());
        assert!(pairs(many(PARAMETERS_MAX + 1).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn what_a_browser_encodes_is_read_back(name in "\\PC{1,20}", value in "\\PC{0,20}") {
            let text = url::form_urlencoded::Serializer::new(String::new()).append_pair(&name, &value).finish();
            prop_assert_eq!(pairs(text.as_bytes()).unwrap(), vec![(name, value)]);
        }
    }
}
