//! What the server signs over the trail: heads, checkpoints, receipts.
//!
//! Each has a `typ` of its own (RFC 8725 3.11), so that none is taken for another or for a token. The key's name is its thumbprint: a head that names the
//! `next` key vouches for that very key.

use serde_json::{Map, Value, json};

use crate::model::audit::{HeadMark, Tip};
use crate::model::key::SigningAlg;
use crate::model::{Digest, Timestamp};
use crate::token::audit::genesis;
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
    /// The heads before it.
    pub before: Before,
}

impl SignedHead {
    fn mark(&self) -> HeadMark<'_> {
        HeadMark { at: self.at, kid: &self.kid }
    }
}

/// What a head says of those before it; the chain's beginning where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// What the one before it vouches for.
    pub previous: Tip,
    /// What the last one vouches for that stays when heads are thinned.
    pub kept: Tip,
}

impl Before {
    /// What a head has to say that is signed after this one.
    pub fn of(last: Option<&SignedHead>, next: &HeadMark<'_>) -> Self {
        let previous = last.map_or_else(genesis, |last| last.tip);
        let kept = last.filter(|last| last.mark().goes_before(next)).map_or(previous, |last| last.before.kept);
        Self { previous, kept }
    }
}

/// What is no longer kept, as it was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// The last record that is gone.
    pub tip: Tip,
    /// When the head was signed that covered it: nothing is gone that was sealed later.
    pub until: Timestamp,
}

/// Signs the end of the chain; `next` is the key that signs from now on, if this one ceases.
pub fn sign_head(tip: &Tip, before: &Before, next: Option<&str>, at: Timestamp, key: &SigningKey) -> Result<String, TokenError> {
    let named = |tip: &Tip| json!({ "seq": tip.seq, "chain": tip.chain.to_string() });
    let mut claims = json!({
        "iat": at.seconds(),
        "seq": tip.seq,
        "chain": tip.chain.to_string(),
        "records": tip.seq.saturating_sub(before.previous.seq),
        "previous": named(&before.previous),
        "kept": named(&before.kept),
    });
    if let (Some(next), Some(members)) = (next, claims.as_object_mut()) {
        members.insert("next".to_owned(), json!(next));
    }
    key.sign_as(HEAD_TYP, claims.to_string().as_bytes())
}

/// Signs that what was sealed up to this head is not kept any more.
pub fn sign_checkpoint(head: &SignedHead, at: Timestamp, key: &SigningKey) -> Result<String, TokenError> {
    let (tip, until) = (&head.tip, head.at.seconds());
    let claims = json!({ "iat": at.seconds(), "seq": tip.seq, "chain": tip.chain.to_string(), "until": until });
    key.sign_as(CHECKPOINT_TYP, claims.to_string().as_bytes())
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
    let named = |name: &str| claims.get(name).and_then(Value::as_object).ok_or(Misread::Shape).and_then(tip);
    let before = Before { previous: named("previous")?, kept: named("kept")? };
    Ok(SignedHead { tip: tip(&claims)?, at: seconds(&claims, "iat")?, kid, next, before })
}

pub(super) fn verify_checkpoint(text: &str, keys: &[PublicJwk]) -> Result<SignedCheckpoint, Misread> {
    let (claims, _) = read(text, CHECKPOINT_TYP, keys)?;
    Ok(SignedCheckpoint { tip: tip(&claims)?, until: seconds(&claims, "until")? })
}

/// What a head says it vouches for. **Nothing is verified.**
pub(super) fn unverified_tip(text: &str) -> Result<Tip, Misread> {
    tip(&parsed(text, HEAD_TYP)?.claims)
}

fn tip(claims: &Map<String, Value>) -> Result<Tip, Misread> {
    let chain = claims.get("chain").and_then(Value::as_str).and_then(|text| Digest::parse(text).ok());
    let seq = claims.get("seq").and_then(Value::as_u64);
    seq.zip(chain).map(|(seq, chain)| Tip { seq, chain }).ok_or(Misread::Shape)
}

fn seconds(claims: &Map<String, Value>, name: &str) -> Result<Timestamp, Misread> {
    claims.get(name).and_then(Value::as_i64).map(Timestamp::from_seconds).ok_or(Misread::Shape)
}

fn parsed(text: &str, typ: &str) -> Result<Jws, Misread> {
    let jws = Jws::read_up_to(OCTETS_MAX, text).map_err(|_| Misread::Shape)?;
    if jws.typ.as_deref() == Some(typ) { Ok(jws) } else { Err(Misread::Shape) }
}

/// The claims of a JWS of this `typ` by one of these keys, which must be named (RFC 8725 3.1: a key signs with its own algorithm and no other).
fn read(text: &str, typ: &str, keys: &[PublicJwk]) -> Result<(Map<String, Value>, String), Misread> {
    let jws = parsed(text, typ)?;
    let alg = SigningAlg::parse(&jws.alg).map_err(|_| Misread::Shape)?;
    let kid = jws.kid.clone().ok_or(Misread::Shape)?;
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
    use crate::token::keys::tests::key_pair;

    #[test]
    fn a_head_is_read_back_and_nothing_else_is_taken_for_one() {
        let (public_jwk, key) = key_pair(SigningAlg::Es256);
        let keys = [PublicJwk::parse(public_jwk).unwrap()];
        let (before, at) = (Before { previous: genesis(), kept: genesis() }, Timestamp::from_seconds(9));
        let tip = Tip { seq: 3, chain: Digest::from_octets([3; 32]) };
        let head = sign_head(&tip, &before, Some("k"), at, key).unwrap();
        let expected = SignedHead { tip, at, kid: key.kid().to_owned(), next: Some("k".to_owned()), before };
        assert_eq!(verify_head(&head, &keys), Ok(expected.clone()));
        assert_eq!((unverified_tip(&head), unverified_tip("no head")), (Ok(tip), Err(Misread::Shape)));
        assert_eq!(verify_head(&head, &[]), Err(Misread::UnknownKey));
        let checkpoint = sign_checkpoint(&expected, Timestamp::from_seconds(99), key).unwrap();
        let gone = SignedCheckpoint { tip, until: at };
        assert_eq!((verify_checkpoint(&checkpoint, &keys), verify_head(&checkpoint, &keys)), (Ok(gone), Err(Misread::Shape)));
        assert_eq!(verify_checkpoint(&head, &keys), Err(Misread::Shape));
        // A key under another's name is nobody's.
        let (_, other) = key_pair(SigningAlg::EdDsa);
        assert_eq!(verify_head(&sign_head(&tip, &before, None, at, other).unwrap(), &keys), Err(Misread::UnknownKey));
        let mut forged: Vec<&str> = head.split('.').collect();
        let payload = checkpoint.split('.').nth(1).unwrap();
        forged[1] = payload;
        assert_eq!(verify_head(&forged.join("."), &keys), Err(Misread::Signature));
    }

    #[test]
    fn a_head_names_the_one_before_it_and_the_last_one_that_stays() {
        let tip = |seq| Tip { seq, chain: Digest::from_octets([3; 32]) };
        let (hour, mut last, mut said) = (3600, None, Vec::new());
        // Three in one hour, one of another key, one of the next hour.
        for (seq, at, kid) in [(1, 10, "a"), (2, 20, "a"), (3, 30, "a"), (4, 40, "b"), (5, hour, "b"), (6, hour + 1, "b")] {
            let at = Timestamp::from_seconds(at);
            let before = Before::of(last.as_ref(), &HeadMark { at, kid });
            said.push((before.previous.seq, before.kept.seq));
            last = Some(SignedHead { tip: tip(seq), at, kid: kid.to_owned(), next: None, before });
        }
        assert_eq!(said, [(0, 0), (1, 0), (2, 0), (3, 3), (4, 4), (5, 4)]);
    }
}
