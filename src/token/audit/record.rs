//! What is digested of a record, and how records are chained.
//!
//! The canonical form is a JSON array of `[place, value]`, ordered by place: every value of the record that is not an object or an array itself, its place
//! a JSON pointer (RFC 6901). A text that may have to go is there by its salted digest. The digest of a record is SHA-256 over a line that says what it is,
//! and that array; a link is SHA-256 over the link before, the number in eight octets and the digest of the record.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::model::audit::{AuditRecord, Link, Places, Proof, Tip, TrailRecord};
use crate::model::{Digest, EventId, IssuerId};
use crate::seams::Entropy;
use crate::token::digest::sha256;
use crate::token::{BASE64URL, SealingKey, digests_match};

/// Octets of a salt.
const SALT_OCTETS: usize = 16;

/// Why a record has no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    /// A text without the salt it was digested with.
    #[error("a text in it has no salt")]
    NoSalt,
    /// A value in a place from which it was erased.
    #[error("a value stands where one was erased")]
    NotErased,
}

/// The end of the chain before the first record.
pub fn genesis() -> Tip {
    Tip { seq: 0, chain: Digest::from_octets(sha256(b"logoutd audit trail")) }
}

/// What comes after `before` when a record of this digest is linked to it.
pub fn next_in_chain(before: &Tip, digest: &Digest) -> Tip {
    let seq = before.seq + 1;
    let octets = [before.chain.octets().as_slice(), &seq.to_be_bytes(), digest.octets()].concat();
    Tip { seq, chain: Digest::from_octets(sha256(&octets)) }
}

/// What is written beside a record, with fresh salts.
pub fn proof_of(record: &AuditRecord, sealing: &SealingKey, entropy: &Entropy) -> Proof {
    let record = written(record);
    let salts: Places = texts_that_may_go(&record).into_iter().map(|place| (place, salt(entropy))).collect();
    let digest = digest_of(&record, &salts, &Places::new()).ok();
    Proof { mac: digest.map(|digest| mac(&digest, sealing)), salts, erased: Places::new() }
}

/// Over the digest, which stays the same when texts are erased.
fn mac(digest: &Digest, sealing: &SealingKey) -> Digest {
    sealing.keyed_digest("audit record", &[digest.octets()])
}

/// Whether somebody with the sealing key wrote this record, and nobody without it changed it since.
pub fn is_ours(one: &TrailRecord, sealing: &SealingKey) -> bool {
    let digest = digest_of(&written(&one.record), &one.proof.salts, &one.proof.erased);
    digest.ok().zip(one.proof.mac).is_some_and(|(digest, told)| digests_match(&mac(&digest, sealing), &told))
}

/// Links a record behind `before`.
pub fn link(before: &Tip, one: &TrailRecord) -> Result<Link, Unsound> {
    let digest = digest_of(&written(&one.record), &one.proof.salts, &one.proof.erased)?;
    let Tip { seq, chain } = next_in_chain(before, &digest);
    Ok(Link { seq, digest, chain })
}

/// The first record beyond a number that is not what it was when it was linked, where the chain is said to end at `tip`.
pub fn first_broken(after: u64, records: &[TrailRecord], tip: &Tip) -> Option<u64> {
    let mut before: Option<Tip> = None;
    for (seq, TrailRecord { record, proof, link }) in (after + 1..).zip(records) {
        let digest = digest_of(&written(record), &proof.salts, &proof.erased).ok();
        let is_whole = link.as_ref().is_some_and(|link| {
            let follows = before.is_none_or(|before| next_in_chain(&before, &link.digest).chain == link.chain);
            link.seq == seq && digest == Some(link.digest) && follows
        });
        match link {
            Some(link) if is_whole => before = Some(Tip { seq, chain: link.chain }),
            Some(_) | None => return Some(seq),
        }
    }
    let end = before.map_or(after, |end| end.seq);
    let ends_there = before.map_or(after == tip.seq, |end| end == *tip);
    (!ends_there).then_some(tip.seq.min(end + 1))
}

fn salt(entropy: &Entropy) -> String {
    let mut octets = [0; SALT_OCTETS];
    entropy.fill(&mut octets);
    BASE64URL.encode(octets)
}

/// A record as it is exported and digested.
pub fn written(record: &AuditRecord) -> Map<String, Value> {
    let AuditRecord { id, at, act, caller, role, actor, remote, issuer, event, detail } = record;
    // A member that somebody wrote beside another of its name is a text nobody sealed, whichever of the two a reader takes.
    let detail = crate::token::json::object(detail.as_bytes()).map_or_else(|| json!(detail), Value::Object);
    let members = [
        ("id", json!(id.as_str())),
        ("at", json!(at.to_string())),
        ("act", json!(act.as_str())),
        ("caller", json!(caller)),
        ("role", json!(role)),
        ("actor", json!(actor)),
        ("remote", json!(remote)),
        ("issuer", json!(issuer.as_ref().map(IssuerId::as_str))),
        ("logout", json!(event.as_ref().map(EventId::as_str))),
        ("detail", detail),
    ];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The digest of a record as it was exported.
pub fn digest_of(record: &Map<String, Value>, salts: &Places, erased: &Places) -> Result<Digest, Unsound> {
    let mut canonical: Vec<(String, Value)> = Vec::new();
    for (place, value) in leaves(record) {
        let value = match (may_go(&place), value, erased.get(&place)) {
            (true, Value::Null, Some(digest)) => json!(digest),
            (_, _, Some(_)) => return Err(Unsound::NotErased),
            (true, Value::String(text), None) => json!(salted(salts.get(&place).ok_or(Unsound::NoSalt)?, &text)),
            (_, other, None) => other,
        };
        canonical.push((place, value));
    }
    // What was erased and has no place any more was removed and not erased.
    if erased.keys().any(|place| !canonical.iter().any(|(known, _)| known == place)) {
        return Err(Unsound::NotErased);
    }
    canonical.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut text = b"logoutd audit record\n".to_vec();
    text.extend(serde_json::to_vec(&canonical).expect("texts and values always serialise"));
    Ok(Digest::from_octets(sha256(&text)))
}

fn salted(salt: &str, text: &str) -> String {
    // A salt has one length, so that no two pairs run into one text.
    Digest::from_octets(sha256(&[salt.as_bytes(), b".", text.as_bytes()].concat())).to_string()
}

/// Erases every text that `names` one to be erased, with its salt; answers how many. The record's digest stays what it was.
pub fn erase(record: &mut Map<String, Value>, proof: &mut Proof, names: &dyn Fn(&str, &str) -> bool) -> u64 {
    let wanted: Vec<(String, String)> = leaves(record)
        .into_iter()
        .filter_map(|(place, value)| Some((place, value.as_str()?.to_owned())))
        .filter(|(place, text)| may_go(place) && names(place, text))
        .collect();
    for (place, _) in &wanted {
        if let Some(value) = pointed(record, place) {
            *value = Value::Null;
        }
    }
    for (place, text) in &wanted {
        if let Some(salt) = proof.salts.remove(place) {
            proof.erased.insert(place.clone(), salted(&salt, text));
        }
    }
    u64::try_from(wanted.len()).unwrap_or(u64::MAX)
}

/// [`Value::pointer_mut`] over the members of an object.
fn pointed<'r>(record: &'r mut Map<String, Value>, place: &str) -> Option<&'r mut Value> {
    let rest = place.strip_prefix('/')?;
    match rest.split_once('/') {
        None => record.get_mut(&unescaped(rest)),
        Some((first, below)) => record.get_mut(&unescaped(first))?.pointer_mut(&format!("/{below}")),
    }
}

fn unescaped(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}

fn texts_that_may_go(record: &Map<String, Value>) -> Vec<String> {
    leaves(record).into_iter().filter(|(place, value)| value.is_string() && may_go(place)).map(|(place, _)| place).collect()
}

/// Whether a text of this place may name a person.
fn may_go(place: &str) -> bool {
    matches!(place, "/actor" | "/remote" | "/detail") || place.starts_with("/detail/")
}

/// Every value that holds no other, with its place. An empty array or object is one, under a name no text has: it tells apart what is empty from what is not.
fn leaves(record: &Map<String, Value>) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (name, value) in record {
        collect(format!("/{}", escaped(name)), value, &mut found);
    }
    found
}

fn collect(place: String, value: &Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            members.iter().for_each(|(name, value)| collect(format!("{place}/{}", escaped(name)), value, found));
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(index, value)| collect(format!("{place}/{index}"), value, found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            found.push((place, value.clone()));
        }
    }
}

/// One reference token of a JSON pointer (RFC 6901 3).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::Timestamp;
    use crate::model::audit::Act;

    pub(in crate::token::audit) fn record(n: i64, detail: &Value) -> AuditRecord {
        AuditRecord {
            id: Entropy::seeded(1).id(Timestamp::from_seconds(n)),
            at: Timestamp::from_seconds(n),
            act: Act::LogoutPosted,
            caller: "t".to_owned(),
            role: "operator".to_owned(),
            actor: Some("desk".to_owned()),
            remote: Some("192.0.2.7".to_owned()),
            issuer: Some(IssuerId::parse("main").unwrap()),
            event: None,
            detail: detail.to_string(),
        }
    }

    pub(in crate::token::audit) fn sealing() -> SealingKey {
        SealingKey::generate(&Entropy::seeded(7))
    }

    pub(in crate::token::audit) fn proven(record: AuditRecord) -> TrailRecord {
        let proof = proof_of(&record, &sealing(), &Entropy::seeded(2));
        TrailRecord { record, proof, link: None }
    }

    fn linked(detail: &Value) -> (Map<String, Value>, Proof, Digest) {
        let one = proven(record(1, detail));
        let digest = link(&genesis(), &one).unwrap().digest;
        (written(&one.record), one.proof, digest)
    }

    #[test]
    fn every_value_of_a_record_counts() {
        let detail = json!({"target": {"sub": "alice"}, "n": 1, "none": null, "list": ["a", {"b": true}], "empty": [], "void": {}});
        let (whole, link, digest) = linked(&detail);
        assert_eq!(digest_of(&whole, &link.salts, &link.erased), Ok(digest));
        for (place, _) in leaves(&whole) {
            let mut changed = whole.clone();
            *pointed(&mut changed, &place).unwrap() = json!(false);
            assert_ne!(digest_of(&changed, &link.salts, &link.erased), Ok(digest), "{place}");
        }
        for name in whole.keys() {
            let mut without = whole.clone();
            without.remove(name);
            assert_ne!(digest_of(&without, &link.salts, &link.erased), Ok(digest), "{name}");
        }
        let mut more = whole.clone();
        more.insert("more".to_owned(), Value::Null);
        assert_ne!(digest_of(&more, &link.salts, &link.erased), Ok(digest));
    }

    #[test]
    fn what_was_erased_leaves_a_record_that_verifies_and_no_way_to_try_names() {
        let (mut whole, mut link, digest) = linked(&json!({"target": {"sub": "alice"}, "note": "for a/b~c", "a/b~c": "alice"}));
        assert_eq!(erase(&mut whole, &mut link, &|_, text| text == "alice"), 2);
        assert!(whole["detail"]["target"]["sub"].is_null() && whole["detail"]["a/b~c"].is_null(), "{whole:?}");
        assert!(!link.salts.contains_key("/detail/target/sub") && link.erased.len() == 2, "{link:?}");
        assert_eq!(digest_of(&whole, &link.salts, &link.erased), Ok(digest));
        // Nothing can be put in its place.
        let mut invented = whole.clone();
        invented["detail"]["target"]["sub"] = json!("mallory");
        assert_eq!(digest_of(&invented, &link.salts, &link.erased), Err(Unsound::NotErased));
        invented["detail"].as_object_mut().unwrap().remove("target");
        assert_eq!(digest_of(&invented, &link.salts, &link.erased), Err(Unsound::NotErased));
        let mut other = link.erased.clone();
        other.insert("/caller".to_owned(), "x".to_owned());
        assert!(digest_of(&whole, &link.salts, &other).is_err());
    }

    #[test]
    fn only_who_has_the_sealing_key_proves_a_record_and_erasing_texts_of_it_takes_no_proof_away() {
        let mut one = proven(record(1, &json!({"target": {"sub": "alice"}, "n": 1})));
        assert!(is_ours(&one, &sealing()) && !is_ours(&one, &SealingKey::generate(&Entropy::seeded(8))));
        let other = TrailRecord { record: AuditRecord { caller: "nobody".to_owned(), ..one.record.clone() }, ..one.clone() };
        let unproven = TrailRecord { proof: Proof { mac: None, ..one.proof.clone() }, ..one.clone() };
        assert!(!is_ours(&other, &sealing()) && !is_ours(&unproven, &sealing()));
        let mut whole = written(&one.record);
        assert_eq!(erase(&mut whole, &mut one.proof, &|_, text| text == "alice"), 1);
        one.record.detail = whole["detail"].to_string();
        assert!(is_ours(&one, &sealing()));
        one.record.detail = json!({"target": {"sub": "mallory"}, "n": 1}).to_string();
        assert!(!is_ours(&one, &sealing()));
    }

    #[test]
    fn a_link_depends_on_all_before_it_and_on_its_number() {
        let (one, other) = (Digest::from_octets([1; 32]), Digest::from_octets([2; 32]));
        let first = next_in_chain(&genesis(), &one);
        assert_eq!(first.seq, 1);
        assert_ne!(next_in_chain(&first, &other).chain, next_in_chain(&next_in_chain(&genesis(), &other), &other).chain);
        assert_ne!(next_in_chain(&Tip { seq: 7, ..first }, &other).chain, next_in_chain(&first, &other).chain);
    }
}
