//! What the server signs over the trail: heads, checkpoints, receipts.
//!
//! Each has a `typ` of its own (RFC 8725 3.11), so that none is taken for another or for a token. The key's name is its thumbprint: a head that names the
//! `next` key vouches for that very key.

use serde_json::{Map, Value, json};

use crate::model::audit::Tip;
use crate::model::key::SigningAlg;
use crate::model::{Digest, Timestamp};
use crate::token::jws::Jws;
use crate::token::{PublicJwk, SigningKey, TokenError};

/// The `typ` of a head.
pub const HEAD_TYP: &str = "audit-head+jwt";
/// The `typ` of a checkpoint.
pub const CHECKPOINT_TYP: &str = "audit-checkpoint+jwt";
/// The `typ` of a receipt.
pub const RECEIPT_TYP: &str = "logout-receipt+jwt";

/// The longest of them, in octets: a receipt of a thousand deliveries.
const OCTETS_MAX: usize = 2 * 1024 * 1024;

/// Why something is not signed by whom it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misread {
    /// Not a compact JWS, or of another kind.
    #[error("it is not what it is taken for")]
    Shape,
    /// Signed with a key that is not among those believed.
    #[error("it is signed with a key that is not among the trusted ones")]
    UnknownKey,
    /// The signature does not fit.
    #[error("its signature is not good")]
    Signature,
}

/// A head that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHead {
    /// What it vouches for.
    pub tip: Tip,
    /// When it was signed.
    pub at: Timestamp,
    /// The key that signed it.
    pub kid: String,
    /// The key that signs after it, if that is another.
    pub next: Option<String>,
}

/// Signs the end of the chain; `next` is the key that signs from now on, if this one ceases.
pub fn sign_head(tip: &Tip, before: &Tip, next: Option<&str>, at: Timestamp, key: &SigningKey) -> Result<String, TokenError> {
    let mut claims = json!({
        "iat": at.seconds(),
        "seq": tip.seq,
        "chain": tip.chain.to_string(),
        "records": tip.seq.saturating_sub(before.seq),
        "previous": { "seq": before.seq, "chain": before.chain.to_string() },
    });
    if let (Some(next), Some(members)) = (next, claims.as_object_mut()) {
        members.insert("next".to_owned(), json!(next));
    }
    key.sign_as(HEAD_TYP, claims.to_string().as_bytes())
}

/// Signs that what was sealed up to here is not kept any more.
pub fn sign_checkpoint(tip: &Tip, at: Timestamp, key: &SigningKey) -> Result<String, TokenError> {
    key.sign_as(CHECKPOINT_TYP, json!({ "iat": at.seconds(), "seq": tip.seq, "chain": tip.chain.to_string() }).to_string().as_bytes())
}

/// Signs what became of a logout.
pub fn sign_receipt(claims: &Value, key: &SigningKey) -> Result<String, TokenError> {
    key.sign_as(RECEIPT_TYP, claims.to_string().as_bytes())
}

/// What a receipt says, once its signature is found good; and the key that made it.
pub fn verify_receipt(text: &str, keys: &[PublicJwk]) -> Result<(Map<String, Value>, String), Misread> {
    read(text.trim(), RECEIPT_TYP, keys)
}

pub(super) fn verify_head(text: &str, keys: &[PublicJwk]) -> Result<SignedHead, Misread> {
    let (claims, kid) = read(text, HEAD_TYP, keys)?;
    let next = claims.get("next").and_then(Value::as_str).map(str::to_owned);
    Ok(SignedHead { tip: tip(&claims)?, at: at(&claims)?, kid, next })
}

pub(super) fn verify_checkpoint(text: &str, keys: &[PublicJwk]) -> Result<Tip, Misread> {
    tip(&read(text, CHECKPOINT_TYP, keys)?.0)
}

fn tip(claims: &Map<String, Value>) -> Result<Tip, Misread> {
    let chain = claims.get("chain").and_then(Value::as_str).and_then(|text| Digest::parse(text).ok());
    let seq = claims.get("seq").and_then(Value::as_u64);
    seq.zip(chain).map(|(seq, chain)| Tip { seq, chain }).ok_or(Misread::Shape)
}

fn at(claims: &Map<String, Value>) -> Result<Timestamp, Misread> {
    claims.get("iat").and_then(Value::as_i64).map(Timestamp::from_seconds).ok_or(Misread::Shape)
}

/// The claims of a JWS of this `typ` by one of these keys, which must be named (RFC 8725 3.1: a key signs with its own algorithm and no other).
fn read(text: &str, typ: &str, keys: &[PublicJwk]) -> Result<(Map<String, Value>, String), Misread> {
    let jws = Jws::read_up_to(OCTETS_MAX, text).map_err(|_| Misread::Shape)?;
    let alg = SigningAlg::parse(&jws.alg).map_err(|_| Misread::Shape)?;
    let kid = jws.kid.clone().filter(|_| jws.typ.as_deref() == Some(typ)).ok_or(Misread::Shape)?;
    // By what it is and not by what it calls itself.
    let named: Vec<PublicJwk> = keys.iter().filter(|key| key.thumbprint() == kid && key.kid() == Some(&kid)).cloned().collect();
    if named.is_empty() {
        return Err(Misread::UnknownKey);
    }
    jws.check_signature(&named, alg).map_err(|_| Misread::Signature)?;
    Ok((jws.claims, kid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::audit::genesis;
    use crate::token::keys::tests::key_pair;

    #[test]
    fn a_head_is_read_back_and_nothing_else_is_taken_for_one() {
        let (public_jwk, key) = key_pair(SigningAlg::Es256);
        let keys = [PublicJwk::parse(public_jwk).unwrap()];
        let (before, at) = (genesis(), Timestamp::from_seconds(9));
        let tip = Tip { seq: 3, chain: Digest::from_octets([3; 32]) };
        let head = sign_head(&tip, &before, Some("k"), at, key).unwrap();
        let expected = SignedHead { tip, at, kid: key.kid().to_owned(), next: Some("k".to_owned()) };
        assert_eq!(verify_head(&head, &keys), Ok(expected));
        assert_eq!(verify_head(&head, &[]), Err(Misread::UnknownKey));
        let checkpoint = sign_checkpoint(&tip, at, key).unwrap();
        assert_eq!((verify_checkpoint(&checkpoint, &keys), verify_head(&checkpoint, &keys)), (Ok(tip), Err(Misread::Shape)));
        assert_eq!(verify_checkpoint(&head, &keys), Err(Misread::Shape));
        // A key under another's name is nobody's.
        let (_, other) = key_pair(SigningAlg::EdDsa);
        assert_eq!(verify_head(&sign_head(&tip, &before, None, at, other).unwrap(), &keys), Err(Misread::UnknownKey));
        let mut forged: Vec<&str> = head.split('.').collect();
        let payload = checkpoint.split('.').nth(1).unwrap();
        forged[1] = payload;
        assert_eq!(verify_head(&forged.join("."), &keys), Err(Misread::Signature));
    }
}
