//! `Idempotency-Key`: a request that may be repeated safely.

use axum::http::{HeaderMap, HeaderName};
use serde::Serialize;

use crate::http::Problem;
use crate::model::Digest;
use crate::model::trigger::Idempotency;
use crate::token::SealingKey;

/// The longest key, in characters.
pub const KEY_CHARS_MAX: usize = 255;

/// `Idempotency-Key`.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The key of a request, with the fingerprint of its parsed body: the same request is the same whatever its spelling.
pub fn idempotency(headers: &HeaderMap, body: &impl Serialize, sealing: &SealingKey) -> Result<Option<Idempotency>, Problem> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = match (given.next(), given.next()) {
        (None, _) => return Ok(None),
        (Some(key), None) => key.as_bytes(),
        (Some(_), Some(_)) => return Err(Problem::invalid_header(&IDEMPOTENCY_KEY, "must not appear twice")),
    };
    let legal = (1..=KEY_CHARS_MAX).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    match String::from_utf8(key.to_vec()) {
        Ok(key) if legal => Ok(Some(Idempotency { key, fingerprint: fingerprint(body, sealing)? })),
        Ok(_) | Err(_) => Err(Problem::invalid_header(&IDEMPOTENCY_KEY, "must have 1 to 255 visible ASCII characters")),
    }
}

/// Keyed, because a body names a person, and names can be guessed.
fn fingerprint(body: &impl Serialize, sealing: &SealingKey) -> Result<Digest, Problem> {
    let canonical = serde_json::to_vec(body).map_err(Problem::internal)?;
    Ok(sealing.keyed_digest("idempotency", &[&canonical]))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::seams::Entropy;

    fn keyed(values: &[&str]) -> Result<Option<Idempotency>, Problem> {
        let headers: HeaderMap = values.iter().map(|value| (IDEMPOTENCY_KEY, HeaderValue::from_str(value).unwrap())).collect();
        idempotency(&headers, &"body", &SealingKey::generate(&Entropy::seeded(1)))
    }

    #[test]
    fn a_key_has_one_to_255_visible_characters() {
        assert_eq!(keyed(&[]).unwrap(), None);
        assert_eq!(keyed(&["\"a-1\""]).unwrap().unwrap().key, "\"a-1\"");
        assert!(keyed(&[&"x".repeat(255)]).is_ok());
        for wrong in ["", "a b", &"x".repeat(256)] {
            assert!(keyed(&[wrong]).is_err(), "{wrong:?}");
        }
        assert!(keyed(&["a", "a"]).is_err());
    }

    #[test]
    fn another_body_has_another_fingerprint_and_so_has_another_deployment() {
        let keys = [SealingKey::generate(&Entropy::seeded(1)), SealingKey::generate(&Entropy::seeded(2))];
        let [first, second] = &keys;
        let of = |body: &str, key| fingerprint(&body, key).unwrap();
        assert_eq!(of("a", first), of("a", first));
        assert_ne!(of("a", first), of("b", first));
        assert_ne!(of("a", first), of("a", second));
    }
}
