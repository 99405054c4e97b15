//! How the trail stands in the database, as far as this server can answer for it: what it builds on before it signs anything more.
//!
//! Whoever writes to the database beside the server can write anything there, but signs with none of its keys and knows no keyed digest. So columns say
//! where to look, and what is signed says what is so. A retired key is the server's own if its name was digested with the sealing key: that another key
//! names it, or is named by it, anybody can arrange.

use super::signed::{SignedCheckpoint, SignedHead, verify_checkpoint, verify_head};
use crate::model::audit::{AuditKey, AuditKeyState, Head, TrailState};
use crate::token::keys::audit_key_mac;
use crate::token::{PublicJwk, SealingKey, SigningKey, digests_match};

/// What the next head is signed with, and after what.
#[derive(Debug)]
pub struct Standing {
    /// The key that signs.
    pub signer: SigningKey,
    /// The key that shall sign after it.
    pub successor: Successor,
    /// The last head.
    pub head: Option<SignedHead>,
    /// What is no longer kept.
    pub checkpoint: Option<SignedCheckpoint>,
}

/// Whether another key waits to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Successor {
    /// None.
    None,
    /// One of this server's own.
    Waits(String),
    /// One that this server did not make, or cannot sign with. It is never announced.
    Foreign,
}

/// Why nothing is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shaken {
    /// No key signs, although there was one.
    #[error("the key that signs the audit trail is not there")]
    NoKey,
    /// The key that signs is not one of this server's.
    #[error("the key that is to sign the audit trail is not one that this server made")]
    ForeignKey,
    /// The heads are gone.
    #[error("the heads of the audit trail are not there")]
    NoHead,
    /// The last head is not one this server signed, or it says something else than what stands beside it.
    #[error("the last head of the audit trail is not as this server signed it")]
    Head,
    /// Another key signed the last head, and named none or another one.
    #[error("the last head of the audit trail does not name the key that is to sign now")]
    NotNamed,
    /// The same of a checkpoint.
    #[error("the checkpoint of the audit trail is not as this server signed it")]
    Checkpoint,
}

/// Whether this server made a key.
pub fn is_own_key(key: &AuditKey, sealing: &SealingKey) -> bool {
    key.mac.is_some_and(|told| digests_match(&told, &audit_key_mac(&key.kid, sealing)))
}

/// The public halves of those this server made.
pub fn own_keys(keys: &[AuditKey], sealing: &SealingKey) -> Vec<PublicJwk> {
    keys.iter().filter(|key| is_own_key(key, sealing)).filter_map(|key| PublicJwk::parse(&key.public_jwk).ok()).collect()
}

/// What a stored head says, if one of these keys signed it and its columns say the same.
pub fn stored_head(head: &Head, keys: &[PublicJwk]) -> Result<SignedHead, Shaken> {
    let signed = verify_head(&head.jws, keys).map_err(|_| Shaken::Head)?;
    let is_so = signed.tip == head.tip && signed.at.seconds() == head.at.seconds() && signed.kid == head.kid;
    if is_so { Ok(signed) } else { Err(Shaken::Head) }
}

/// Verifies what the next signature is built on.
pub fn standing(keys: &[AuditKey], state: &TrailState, sealing: &SealingKey) -> Result<Standing, Shaken> {
    let in_state = |state| keys.iter().find(|key| key.state == state);
    let unsealed = |key: &AuditKey| SigningKey::unseal_audit(key, sealing).ok().filter(|_| is_own_key(key, sealing));
    let signer = unsealed(in_state(AuditKeyState::Active).ok_or(Shaken::NoKey)?).ok_or(Shaken::ForeignKey)?;
    let successor = match in_state(AuditKeyState::Next) {
        None => Successor::None,
        Some(key) => unsealed(key).map_or(Successor::Foreign, |key| Successor::Waits(key.kid().to_owned())),
    };
    let own = own_keys(keys, sealing);
    let checkpoint = state.checkpoint.as_ref().map(|stored| {
        let signed = verify_checkpoint(&stored.jws, &own).map_err(|_| Shaken::Checkpoint)?;
        if signed.tip == stored.tip { Ok(signed) } else { Err(Shaken::Checkpoint) }
    });
    let checkpoint = checkpoint.transpose()?;
    let head = state.head.as_ref().map(|head| stored_head(head, &own)).transpose()?;
    match &head {
        // The last head of each key is kept for good.
        None if checkpoint.is_some() || in_state(AuditKeyState::Retired).is_some() => return Err(Shaken::NoHead),
        None => {}
        Some(head) if checkpoint.is_some_and(|gone| gone.tip.seq > head.tip.seq) => return Err(Shaken::Head),
        Some(head) if head.kid != signer.kid() && head.next.as_deref() != Some(signer.kid()) => return Err(Shaken::NotNamed),
        Some(_) => {}
    }
    Ok(Standing { signer, successor, head, checkpoint })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use crate::model::audit::{Checkpoint, HeadMark, Tip};
    use crate::model::key::SigningAlg;
    use crate::seams::Entropy;
    use crate::token::audit::{Before, genesis, sign_checkpoint, sign_head};
    use crate::token::generate;

    const T: Timestamp = Timestamp::from_seconds(7200);

    fn sealing(seed: u64) -> SealingKey {
        SealingKey::generate(&Entropy::seeded(seed))
    }

    fn key(state: AuditKeyState, sealing: &SealingKey) -> AuditKey {
        generate(SigningAlg::Es256).unwrap().into_audit_key(state, T, sealing, &Entropy::os())
    }

    fn tip(seq: u64) -> Tip {
        Tip { seq, ..genesis() }
    }

    fn head(seq: u64, next: Option<&str>, key: &AuditKey, sealing: &SealingKey) -> Head {
        let signer = SigningKey::unseal_audit(key, sealing).unwrap();
        let jws = sign_head(&tip(seq), &Before::of(None, &HeadMark { at: T, kid: &key.kid }), next, T, &signer).unwrap();
        Head { tip: tip(seq), at: T, kid: key.kid.clone(), jws }
    }

    fn state(head: Option<Head>, checkpoint: Option<Checkpoint>) -> TrailState {
        TrailState { head, checkpoint, unsealed: 0, unsealed_since: None }
    }

    fn shaken(keys: &[AuditKey], state: &TrailState) -> Option<Shaken> {
        standing(keys, state, &sealing(1)).err()
    }

    #[test]
    fn what_stands_beside_a_signed_head_must_be_what_it_says() {
        let (own, sealing) = (key(AuditKeyState::Active, &sealing(1)), sealing(1));
        let signed = head(5, None, &own, &sealing);
        let keys = [own];
        let with = |head: Head| state(Some(head), None);
        assert_eq!(standing(&keys, &with(signed.clone()), &sealing).unwrap().head.unwrap().tip, tip(5));
        let lies = [
            Head { tip: tip(4), ..signed.clone() },
            Head { tip: Tip { seq: 5, chain: crate::model::Digest::from_octets([9; 32]) }, ..signed.clone() },
            Head { at: Timestamp::from_seconds(1), ..signed.clone() },
            Head { kid: "another".to_owned(), ..signed.clone() },
            Head { jws: "x".to_owned(), ..signed },
        ];
        for lie in lies {
            assert_eq!(shaken(&keys, &with(lie.clone())), Some(Shaken::Head), "{lie:?}");
        }
    }

    #[test]
    fn a_key_is_this_server_s_by_the_sealing_key_and_by_nothing_that_another_key_says() {
        let (ours, theirs) = (sealing(1), sealing(2));
        let active = key(AuditKeyState::Active, &ours);
        // One that was passed on from, and one that says it was.
        for (sealing, expected) in [(&ours, None), (&theirs, Some(Shaken::Head))] {
            let old = key(AuditKeyState::Retired, sealing);
            let last = head(5, Some(&active.kid), &old, sealing);
            let retired = AuditKey { sealed: Vec::new(), ..old };
            assert_eq!(shaken(&[retired, active.clone()], &state(Some(last), None)), expected);
        }
        // The head names no key, or another: then none has passed on to this one.
        let old = key(AuditKeyState::Retired, &ours);
        for next in [None, Some("another")] {
            let last = head(5, next, &old, &ours);
            assert_eq!(shaken(&[old.clone(), active.clone()], &state(Some(last), None)), Some(Shaken::NotNamed));
        }
        let foreign = key(AuditKeyState::Active, &theirs);
        assert_eq!(shaken(std::slice::from_ref(&foreign), &state(None, None)), Some(Shaken::ForeignKey));
        assert_eq!(shaken(&[old], &state(None, None)), Some(Shaken::NoKey));
    }

    #[test]
    fn a_successor_is_announced_if_this_server_can_sign_with_it() {
        let (ours, theirs) = (sealing(1), sealing(2));
        let active = key(AuditKeyState::Active, &ours);
        let successor = |next: AuditKey| standing(&[active.clone(), next], &state(None, None), &ours).unwrap().successor;
        let next = key(AuditKeyState::Next, &ours);
        assert_eq!(successor(next.clone()), Successor::Waits(next.kid.clone()));
        let foreign = key(AuditKeyState::Next, &theirs);
        let dressed = [
            foreign.clone(),
            AuditKey { sealed: next.sealed.clone(), ..foreign.clone() },
            AuditKey { sealed: next.sealed.clone(), mac: next.mac, ..foreign.clone() },
            AuditKey { public_jwk: foreign.public_jwk.clone(), ..next.clone() },
            AuditKey { sealed: vec![0; 3], ..next.clone() },
            AuditKey { mac: None, ..next },
        ];
        for key in dressed {
            assert_eq!(successor(key.clone()), Successor::Foreign, "{key:?}");
        }
    }

    #[test]
    fn what_is_not_kept_any_more_is_told_by_a_signature_and_hides_no_missing_head() {
        let (own, sealing) = (key(AuditKeyState::Active, &sealing(1)), sealing(1));
        let (old, young) = (head(5, None, &own, &sealing), head(9, None, &own, &sealing));
        let signed = verify_head(&old.jws, &own_keys(std::slice::from_ref(&own), &sealing)).unwrap();
        let jws = sign_checkpoint(&signed, T, &SigningKey::unseal_audit(&own, &sealing).unwrap()).unwrap();
        let (keys, gone) = ([own], Checkpoint { tip: tip(5), at: T, jws });
        let stands = standing(&keys, &state(Some(young.clone()), Some(gone.clone())), &sealing).unwrap();
        assert_eq!(stands.checkpoint.unwrap().until, T);
        let further = Checkpoint { tip: tip(8), ..gone.clone() };
        assert_eq!(shaken(&keys, &state(Some(young.clone()), Some(further))), Some(Shaken::Checkpoint));
        let head_for_it = Checkpoint { tip: tip(9), at: T, jws: young.jws };
        assert_eq!(shaken(&keys, &state(Some(old), Some(head_for_it))), Some(Shaken::Checkpoint));
        assert_eq!(shaken(&keys, &state(None, Some(gone))), Some(Shaken::NoHead));
    }
}
