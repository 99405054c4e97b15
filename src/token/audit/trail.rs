//! Whether a trail is whole: read line by line, in the order of sealing, in whatever memory a line takes.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::record::{Unsound, digest_of, genesis, next_in_chain};
use super::signed::{Misread, SignedHead, unverified_tip, verify_checkpoint, verify_head};
use crate::model::audit::{Act, Places, Tip};
use crate::model::{Digest, Timestamp};
use crate::token::{JwkSet, PublicJwk, json};

/// One line of an exported trail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Line {
    /// A public key; believed only if it was trusted before, or if a head names it as the next.
    Key {
        /// It, as a JWK.
        jwk: Value,
    },
    /// A head from before where the trail begins: the last one of its key, kept because it names the key after it.
    Announcement {
        /// It.
        jws: String,
    },
    /// What was sealed up to here is not kept any more.
    Checkpoint {
        /// It, signed.
        jws: String,
    },
    /// The export was asked for from this head on.
    Start {
        /// The head.
        jws: String,
    },
    /// A record.
    Record {
        /// Its number; null where it is not sealed yet.
        seq: Option<u64>,
        /// It; left out where it is not the reader's to see.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        record: Option<Map<String, Value>>,
        /// The salts of its texts.
        #[serde(skip_serializing_if = "Places::is_empty", default)]
        salts: Places,
        /// The digests of what was erased.
        #[serde(skip_serializing_if = "Places::is_empty", default)]
        erased: Places,
        /// Its digest.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        digest: Option<String>,
        /// The chain up to it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        chain: Option<String>,
    },
    /// A signed head.
    Head {
        /// It.
        jws: String,
    },
    /// The export was asked for up to here; the trail goes on.
    Until {},
}

/// What is wrong with a trail, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The first record that is not as it was sealed, as far as that can be told; the last number of what is in question.
    pub seq: Option<(u64, u64)>,
    /// What is wrong.
    pub why: Why,
}

/// What can be wrong with a trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A line that is none of an export.
    Unreadable,
    /// A record's content is not what was digested.
    Changed,
    /// A record has no digest.
    Unsound(Unsound),
    /// Records are not there.
    Missing,
    /// A record stands where another should, or twice.
    OutOfOrder,
    /// A head vouches for another chain: what it covers was changed, removed, put in or put in another order.
    OtherChain,
    /// A signed line is not signed as it should be.
    Signed(Misread),
    /// Another key signs, and none before it said so.
    KeyNotAnnounced,
    /// Sealed records that no head covers.
    NoHead,
    /// The heads that a head names as those before it are not there.
    HeadMissing,
    /// A head that was noted elsewhere is not signed as it should be.
    Noted(Misread),
    /// The trail ends before a head that was noted elsewhere.
    CutShort,
    /// The trail begins after a head that was noted elsewhere, so that nobody can say whether it leads there.
    BeginsLater,
    /// All of it was asked for, and a part is what it says it is.
    NotAsked,
    /// More values are erased than sealed records tell of.
    ErasedUntold,
    /// The same, and records tell of them that are not sealed yet.
    ErasedUnsealed,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seq {
            Some((first, last)) if first == last => write!(f, "record {first}: ")?,
            Some((first, last)) => write!(f, "records {first} to {last}: ")?,
            None => {}
        }
        match &self.why {
            Why::Unreadable => f.write_str("a line is not one of an exported trail"),
            Why::Changed => f.write_str("it is not as it was sealed"),
            Why::Unsound(unsound) => write!(f, "it is not as it was sealed: {unsound}"),
            Why::Missing => f.write_str("missing"),
            Why::OutOfOrder => f.write_str("it stands twice, or in another's place"),
            Why::OtherChain => f.write_str("a signed head says otherwise: something was changed, removed or put in"),
            Why::Signed(misread) => write!(f, "a signed line is not to be believed: {misread}"),
            Why::KeyNotAnnounced => f.write_str("a head is signed with a key that no head before it announced"),
            Why::NoHead => f.write_str("sealed, and no signed head covers it"),
            Why::HeadMissing => f.write_str("a signed head was removed: the next one names heads before it that are not there"),
            Why::Noted(Misread::UnknownKey) => {
                f.write_str("a head that was noted elsewhere is signed with a key that neither the trusted ones nor the trail vouch for")
            }
            Why::Noted(misread) => write!(f, "a head that was noted elsewhere is not to be believed: {misread}"),
            Why::CutShort => f.write_str("missing: the trail ends before a head that was noted elsewhere"),
            Why::BeginsLater => f.write_str("not there: the trail begins after a head that was noted elsewhere"),
            Why::NotAsked => f.write_str("all of the trail was asked for, and this says that it is a part"),
            Why::ErasedUntold => f.write_str("more values are erased than sealed records tell of"),
            Why::ErasedUnsealed => {
                f.write_str("values are erased of which only records tell that are not sealed yet: verify again in a few seconds")
            }
        }
    }
}

impl std::error::Error for Broken {}

/// A trail that is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records verified.
    pub verified: u64,
    /// Of these, records of which only the digest was there.
    pub withheld: u64,
    /// Values that were erased.
    pub erased: u64,
    /// The last record that is not kept any more, if any.
    pub purged_to: Option<u64>,
    /// Until when such records were sealed.
    pub purged_until: Option<Timestamp>,
    /// The record before the first one, where the trail was asked for from there.
    pub began_after: Option<u64>,
    /// The trail was asked for up to its last record here, and goes on.
    pub goes_on: bool,
    /// The last signed head.
    pub head: Option<SignedHead>,
    /// Records that are not sealed: nothing vouches for them.
    pub unsealed: u64,
    /// When the oldest of them was written, as it says itself.
    pub unsealed_since: Option<Timestamp>,
}

/// How much of a trail is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// What a file holds, which may be a part.
    AsItSays,
    /// All that is kept.
    Everything,
}

/// A trail that is being read.
#[derive(Debug)]
pub struct Trail {
    extent: Extent,
    trusted: Vec<PublicJwk>,
    offered: BTreeMap<String, PublicJwk>,
    /// The last link, once anything says where the trail begins.
    tip: Option<Tip>,
    /// The link before the first record.
    begins_after: Tip,
    /// What the head before covers.
    covered: u64,
    noted: Vec<Noted>,
    erasures_told: u64,
    /// By records that nothing vouches for.
    erasures_claimed: u64,
    report: Report,
}

/// A head that was kept elsewhere. Which key signed it the trail may have to teach first, so it is believed or not in the end.
#[derive(Debug)]
struct Noted {
    jws: String,
    tip: Tip,
    /// Where the trail says something else.
    differs: Option<(u64, u64)>,
}

impl Noted {
    fn of(text: &str) -> Result<Self, Broken> {
        let jws = text.trim().to_owned();
        let tip = unverified_tip(&jws).map_err(|misread| Broken { seq: None, why: Why::Noted(misread) })?;
        Ok(Self { jws, tip, differs: None })
    }
}

impl Trail {
    /// Nothing read yet. The keys are those of a JWK Set that is trusted; `noted` are heads that were kept elsewhere, which the trail must still contain.
    pub fn new(keys: &JwkSet, noted: &[String]) -> Result<Self, Broken> {
        Ok(Self {
            extent: Extent::AsItSays,
            trusted: keys.keys.clone(),
            offered: BTreeMap::new(),
            tip: None,
            begins_after: genesis(),
            covered: 0,
            noted: noted.iter().map(|head| Noted::of(head)).collect::<Result<_, _>>()?,
            erasures_told: 0,
            erasures_claimed: 0,
            report: Report::default(),
        })
    }

    /// The same of whoever was asked for everything: that it is a part is no excuse.
    #[must_use]
    pub fn of_everything(self) -> Self {
        Self { extent: Extent::Everything, ..self }
    }

    /// Reads the next line.
    pub fn read(&mut self, text: &str) -> Result<(), Broken> {
        // Of a member that is named twice two readers could read two things.
        let line = json::object(text.as_bytes()).and_then(|line| serde_json::from_value(Value::Object(line)).ok());
        self.take(line.ok_or_else(|| self.broken(Why::Unreadable))?)
    }

    /// Takes the next line.
    pub fn take(&mut self, line: Line) -> Result<(), Broken> {
        match line {
            // Nothing comes after where it was asked to end.
            _ if self.report.goes_on => Err(self.broken(Why::OutOfOrder)),
            Line::Start { .. } | Line::Until {} if self.extent == Extent::Everything => Err(self.broken(Why::NotAsked)),
            Line::Key { jwk } => {
                let key = PublicJwk::parse(&jwk.to_string()).map_err(|_| self.broken(Why::Unreadable))?;
                self.offered.insert(key.thumbprint(), key);
                Ok(())
            }
            Line::Announcement { jws } => self.announced(&jws),
            Line::Checkpoint { jws } => {
                let gone = verify_checkpoint(&jws, &self.trusted).map_err(|misread| self.broken(Why::Signed(misread)))?;
                self.begin(gone.tip)?;
                (self.report.purged_to, self.report.purged_until) = (Some(gone.tip.seq), Some(gone.until));
                Ok(())
            }
            Line::Start { jws } => {
                let head = verify_head(&jws, &self.trusted).map_err(|misread| self.broken(Why::Signed(misread)))?;
                self.begin(head.tip)?;
                self.report.began_after = Some(head.tip.seq);
                self.accept(head)
            }
            Line::Head { jws } => self.head(&jws),
            Line::Until {} => {
                self.report.goes_on = true;
                Ok(())
            }
            Line::Record { seq: None, record, .. } => {
                self.unsealed(record.as_ref());
                Ok(())
            }
            Line::Record { seq: Some(seq), record, salts, erased, digest, chain } => {
                let link = (digest.as_deref().and_then(parsed), chain.as_deref().and_then(parsed));
                self.record(seq, record.as_ref(), &salts, &erased, link)
            }
        }
    }

    /// All was read.
    pub fn end(self) -> Result<Report, Broken> {
        let at = self.tip.map_or(0, |tip| tip.seq);
        if at > self.covered {
            return Err(Broken { seq: Some((self.covered + 1, at)), why: Why::NoHead });
        }
        for noted in &self.noted {
            verify_head(&noted.jws, &self.trusted).map_err(|misread| Broken { seq: None, why: Why::Noted(misread) })?;
            if let seq @ Some(_) = noted.differs {
                return Err(Broken { seq, why: Why::OtherChain });
            }
        }
        // Whoever notes a head asks whether the trail still leads there: of a part that does not reach it nobody can say so.
        let noted = || self.noted.iter().map(|head| head.tip.seq);
        if let Some(missing) = noted().filter(|seq| *seq > at).max() {
            return Err(Broken { seq: Some((at + 1, missing)), why: Why::CutShort });
        }
        if let Some(first) = noted().filter(|seq| *seq < self.begins_after.seq).min() {
            return Err(Broken { seq: Some((first, self.begins_after.seq)), why: Why::BeginsLater });
        }
        // The records that tell of an erasure are younger than what it erased. Of a part of the trail, or of what is withheld, nobody can say.
        let all_told = self.report.withheld == 0 && !self.report.goes_on;
        if all_told && self.report.erased > self.erasures_told {
            let claimed = self.erasures_told.saturating_add(self.erasures_claimed);
            let why = if self.report.erased > claimed { Why::ErasedUntold } else { Why::ErasedUnsealed };
            return Err(Broken { seq: None, why });
        }
        Ok(self.report)
    }

    fn broken(&self, why: Why) -> Broken {
        let seq = self.tip.map_or(1, |tip| tip.seq + 1);
        Broken { seq: Some((seq, seq)), why }
    }

    fn begin(&mut self, tip: Tip) -> Result<(), Broken> {
        if self.tip.is_some() {
            return Err(self.broken(Why::OutOfOrder));
        }
        (self.tip, self.begins_after, self.covered) = (Some(tip), tip, tip.seq);
        self.meet(&tip)
    }

    /// A head that was noted for this number vouches for the same chain. One that is not believed yet is put off to the end.
    fn meet(&mut self, tip: &Tip) -> Result<(), Broken> {
        let range = ((self.covered + 1).min(tip.seq), tip.seq);
        for noted in self.noted.iter_mut().filter(|noted| noted.tip.seq == tip.seq && noted.tip.chain != tip.chain) {
            if verify_head(&noted.jws, &self.trusted).is_ok() {
                return Err(Broken { seq: Some(range), why: Why::OtherChain });
            }
            noted.differs = Some(range);
        }
        Ok(())
    }

    fn record(
        &mut self,
        seq: u64,
        record: Option<&Map<String, Value>>,
        salts: &Places,
        erased: &Places,
        (digest, chain): (Option<Digest>, Option<Digest>),
    ) -> Result<(), Broken> {
        let before = self.tip.unwrap_or_else(genesis);
        let wrong = |why| Broken { seq: Some((seq, seq)), why };
        match seq {
            _ if seq <= before.seq => return Err(wrong(Why::OutOfOrder)),
            _ if seq > before.seq + 1 => return Err(Broken { seq: Some((before.seq + 1, seq - 1)), why: Why::Missing }),
            _ => {}
        }
        let told = digest.ok_or_else(|| wrong(Why::Unreadable))?;
        match record {
            Some(record) => {
                let found = digest_of(record, salts, erased).map_err(|unsound| wrong(Why::Unsound(unsound)))?;
                if found != told {
                    return Err(wrong(Why::Changed));
                }
                self.erasures_told = self.erasures_told.saturating_add(erasures(record));
            }
            None => self.report.withheld += 1,
        }
        let tip = next_in_chain(&before, &told);
        if chain != Some(tip.chain) {
            return Err(wrong(Why::Changed));
        }
        self.tip = Some(tip);
        self.report.verified += 1;
        self.report.erased += u64::try_from(erased.len()).unwrap_or(u64::MAX);
        self.meet(&tip)
    }

    fn head(&mut self, jws: &str) -> Result<(), Broken> {
        let tip = self.tip.unwrap_or_else(genesis);
        let in_question = |covered: u64, why| Broken { seq: Some((covered + 1, tip.seq.max(covered + 1))), why };
        let head = verify_head(jws, &self.trusted).map_err(|misread| in_question(self.covered, Why::Signed(misread)))?;
        if head.tip.seq > tip.seq {
            return Err(Broken { seq: Some((tip.seq + 1, head.tip.seq)), why: Why::Missing });
        }
        if head.tip != tip {
            return Err(in_question(self.covered, Why::OtherChain));
        }
        self.follows(&head)?;
        self.accept(head)
    }

    /// The head before is the one that this one names: the very one before it, or, where old heads were thinned, the last one that stays.
    fn follows(&self, head: &SignedHead) -> Result<(), Broken> {
        let last = self.report.head.as_ref().map_or(self.begins_after, |last| last.tip);
        let named = [head.before.previous, head.before.kept];
        // What begins behind a checkpoint may name heads that are gone with their records.
        let is_first_kept = self.report.head.is_none() && self.report.purged_to.is_some();
        match named.contains(&last) || is_first_kept && named.iter().any(|tip| tip.seq < last.seq) {
            true => Ok(()),
            false => Err(Broken { seq: Some((self.covered + 1, head.before.previous.seq.max(self.covered + 1))), why: Why::HeadMissing }),
        }
    }

    /// A key follows another only if that one says so; one that is announced is believed from then on.
    fn accept(&mut self, head: SignedHead) -> Result<(), Broken> {
        if let Some(before) = &self.report.head
            && before.kid != head.kid
            && before.next.as_ref() != Some(&head.kid)
        {
            return Err(Broken { seq: Some((self.covered + 1, head.tip.seq)), why: Why::KeyNotAnnounced });
        }
        self.believe(head.next.as_deref());
        self.covered = head.tip.seq;
        self.report.head = Some(head);
        Ok(())
    }

    /// What an older key announced leads from a key that was kept to the one that signs the beginning. Of a key that is not trusted it says nothing.
    fn announced(&mut self, jws: &str) -> Result<(), Broken> {
        if self.tip.is_some() {
            return Err(self.broken(Why::OutOfOrder));
        }
        match verify_head(jws, &self.trusted) {
            Ok(head) => self.believe(head.next.as_deref()),
            Err(Misread::UnknownKey) => {}
            Err(misread) => return Err(self.broken(Why::Signed(misread))),
        }
        Ok(())
    }

    fn believe(&mut self, next: Option<&str>) {
        if let Some(next) = next.and_then(|next| self.offered.get(next)) {
            self.trusted.push(next.clone());
        }
    }

    fn unsealed(&mut self, record: Option<&Map<String, Value>>) {
        self.report.unsealed += 1;
        self.erasures_claimed = self.erasures_claimed.saturating_add(record.map_or(0, erasures));
        let at = record.and_then(|record| Timestamp::parse(record.get("at")?.as_str()?).ok());
        self.report.unsealed_since = self.report.unsealed_since.into_iter().chain(at).min();
    }
}

fn parsed(text: &str) -> Option<Digest> {
    Digest::parse(text).ok()
}

/// How many values of the trail a record says it erased.
fn erasures(record: &Map<String, Value>) -> u64 {
    match record.get("act").and_then(Value::as_str) {
        Some(act) if act == Act::SubjectErased.as_str() => {
            record.get("detail").and_then(|detail| detail.get("audit")?.as_u64()).unwrap_or(0)
        }
        Some(_) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::audit::{AuditRecord, HeadMark, Proof, TrailRecord};
    use crate::model::key::SigningAlg;
    use crate::token::SigningKey;
    use crate::token::audit::record::tests::{proven, record};
    use crate::token::audit::{Before, link, sign_checkpoint, sign_head, written};
    use crate::token::keys::tests::key_pair;

    const T: Timestamp = Timestamp::from_seconds(9);

    fn line(n: i64, before: &mut Tip) -> Line {
        linked(proven(record(n, &json!({"target": {"sub": format!("p-{n}")}, "n": n}))), before)
    }

    fn linked(one: TrailRecord, before: &mut Tip) -> Line {
        let link = link(before, &one).unwrap();
        *before = Tip { seq: link.seq, chain: link.chain };
        Line::Record {
            seq: Some(link.seq),
            record: Some(written(&one.record)),
            salts: one.proof.salts,
            erased: one.proof.erased,
            digest: Some(link.digest.to_string()),
            chain: Some(link.chain.to_string()),
        }
    }

    /// The head over `tip`, after the last one in `lines`.
    fn head(lines: &[Line], tip: &Tip, next: Option<&str>, at: Timestamp, key: &SigningKey) -> Line {
        let keys = [SigningAlg::Es256, SigningAlg::EdDsa].map(|alg| PublicJwk::parse(&key_pair(alg).0).unwrap());
        let last = lines.iter().rev().find_map(|line| {
            let Line::Head { jws } = line else { return None };
            Some(verify_head(jws, &keys).unwrap())
        });
        let before = Before::of(last.as_ref(), &HeadMark { at, kid: key.kid() });
        Line::Head { jws: sign_head(tip, &before, next, at, key).unwrap() }
    }

    /// Six records, with a head after every second.
    fn six() -> Vec<Line> {
        six_at([T; 3])
    }

    fn six_at(times: [Timestamp; 3]) -> Vec<Line> {
        let (_, key) = key_pair(SigningAlg::Es256);
        let (mut tip, mut lines) = (genesis(), Vec::new());
        for (pair, at) in (0..).zip(times) {
            lines.push(line(2 * pair, &mut tip));
            lines.push(line(2 * pair + 1, &mut tip));
            lines.push(head(&lines, &tip, None, at, key));
        }
        lines
    }

    fn unsealed(one: &TrailRecord) -> Line {
        let (salts, erased) = Default::default();
        Line::Record { seq: None, record: Some(written(&one.record)), salts, erased, digest: None, chain: None }
    }

    fn trusted() -> JwkSet {
        JwkSet { keys: vec![PublicJwk::parse(&key_pair(SigningAlg::Es256).0).unwrap()], ignored: 0 }
    }

    fn check(lines: &[Line], noted: &[String]) -> Result<Report, Broken> {
        let mut trail = Trail::new(&trusted(), noted)?;
        for line in lines {
            // As they are written into a file.
            trail.read(&serde_json::to_string(line).unwrap())?;
        }
        trail.end()
    }

    fn why(lines: &[Line]) -> (Option<(u64, u64)>, Why) {
        let Broken { seq, why } = check(lines, &[]).unwrap_err();
        (seq, why)
    }

    #[test]
    fn a_whole_trail_verifies_and_says_how_far() {
        let mut lines = six();
        lines.push(unsealed(&proven(record(99, &json!({})))));
        let report = check(&lines, &[]).unwrap();
        assert_eq!((report.verified, report.unsealed, report.head.unwrap().tip.seq), (6, 1, 6));
        assert_eq!(report.unsealed_since, Some(Timestamp::from_seconds(99)));
    }

    #[test]
    fn a_changed_a_missing_a_swapped_a_repeated_and_an_invented_record_are_found() {
        let mut changed = six();
        let Line::Record { record: Some(record), .. } = &mut changed[3] else { panic!("a record") };
        record.insert("caller".to_owned(), json!("nobody"));
        assert_eq!(why(&changed), (Some((3, 3)), Why::Changed));

        let mut missing = six();
        missing.remove(3);
        assert_eq!(why(&missing), (Some((3, 3)), Why::Missing));

        let mut swapped = six();
        swapped.swap(3, 4);
        assert_eq!(why(&swapped), (Some((3, 3)), Why::Missing));

        let mut repeated = six();
        repeated.insert(4, repeated[3].clone());
        assert_eq!(why(&repeated), (Some((3, 3)), Why::OutOfOrder));

        // One who forges the chain from there on cannot sign what follows.
        let lines = six();
        let mut tip = genesis();
        let mut forged: Vec<Line> = vec![lines[0].clone()];
        if let Line::Record { digest: Some(digest), .. } = &lines[0] {
            tip = next_in_chain(&tip, &Digest::parse(digest).unwrap());
        }
        forged.push(line(77, &mut tip));
        forged.push(lines[2].clone());
        assert_eq!(why(&forged), (Some((1, 2)), Why::OtherChain));
    }

    #[test]
    fn a_cut_tail_is_found_by_a_head_noted_elsewhere() {
        let lines = six();
        let Line::Head { jws } = &lines[8] else { panic!("a head") };
        assert!(check(&lines[..6], &[]).is_ok());
        assert_eq!(check(&lines[..6], std::slice::from_ref(jws)).unwrap_err(), Broken { seq: Some((5, 6)), why: Why::CutShort });
        assert!(check(&lines, std::slice::from_ref(jws)).is_ok());
        assert_eq!(why(&lines[..7]), (Some((5, 5)), Why::NoHead));
        // That it is a part is no excuse where a head says how far it goes, nor where all of it was asked for; nothing follows where it ends.
        let part = [&lines[..6], &[Line::Until {}]].concat();
        assert!(check(&part, &[]).unwrap().goes_on);
        assert_eq!(check(&part, std::slice::from_ref(jws)).unwrap_err(), Broken { seq: Some((5, 6)), why: Why::CutShort });
        let mut everything = Trail::new(&trusted(), &[]).unwrap().of_everything();
        assert_eq!(part.iter().find_map(|line| everything.take(line.clone()).err()).unwrap().why, Why::NotAsked);
        assert_eq!(why(&[&part[..], &lines[6..]].concat()), (Some((5, 5)), Why::OutOfOrder));
        // A head without its records.
        assert_eq!(why(&[&lines[..6], &lines[8..]].concat()), (Some((5, 6)), Why::Missing));
    }

    #[test]
    fn a_key_is_believed_when_it_is_trusted_or_announced_and_not_because_it_is_there() {
        let ((_, old), (new_jwk, new)) = (key_pair(SigningAlg::Es256), key_pair(SigningAlg::EdDsa));
        let jwk: Value = serde_json::from_str(new_jwk).unwrap();
        let trail = |next: Option<&str>| {
            let mut tip = genesis();
            let mut lines = vec![Line::Key { jwk: jwk.clone() }, line(1, &mut tip)];
            lines.push(head(&lines, &tip, next, T, old));
            lines.push(line(2, &mut tip));
            lines.push(head(&lines, &tip, None, T, new));
            lines
        };
        assert_eq!(check(&trail(Some(new.kid())), &[]).unwrap().verified, 2);
        assert_eq!(why(&trail(None)), (Some((2, 2)), Why::Signed(Misread::UnknownKey)));
        let mut both = trusted();
        both.keys.push(PublicJwk::parse(new_jwk).unwrap());
        let mut unannounced = Trail::new(&both, &[]).unwrap();
        let broken = trail(None).into_iter().find_map(|line| unannounced.take(line).err()).unwrap();
        assert_eq!(broken.why, Why::KeyNotAnnounced);
    }

    #[test]
    fn a_noted_head_that_a_successor_signed_is_believed_once_the_trail_has_taught_that_key() {
        let ((_, old), (new_jwk, new)) = (key_pair(SigningAlg::Es256), key_pair(SigningAlg::EdDsa));
        let mut tip = genesis();
        let mut lines = vec![Line::Key { jwk: serde_json::from_str(new_jwk).unwrap() }, line(1, &mut tip)];
        lines.push(head(&lines, &tip, Some(new.kid()), T, old));
        lines.push(line(2, &mut tip));
        let signed = |lines: &[Line], tip: &Tip| {
            let Line::Head { jws } = head(lines, tip, None, T, new) else { panic!("a head") };
            jws
        };
        let noted = signed(&lines, &tip);
        lines.push(Line::Head { jws: noted.clone() });
        assert_eq!(check(&lines, std::slice::from_ref(&noted)).unwrap().verified, 2);
        // Of another chain it is still found, and what nobody vouches for is said to be so.
        let other = signed(&lines[..3], &Tip { seq: 2, ..genesis() });
        assert_eq!(check(&lines, &[other]).unwrap_err(), Broken { seq: Some((2, 2)), why: Why::OtherChain });
        let alone = &lines[1..2];
        let broken = check(&[alone, &[head(&[], &tip_of(alone), None, T, old)]].concat(), &[noted]).unwrap_err();
        assert_eq!(broken.why, Why::Noted(Misread::UnknownKey));
        assert!(broken.to_string().contains("neither the trusted ones nor the trail vouch for"), "{broken}");
        assert_eq!(check(&lines, &["no head".to_owned()]).unwrap_err().why, Why::Noted(Misread::Shape));
    }

    fn tip_of(lines: &[Line]) -> Tip {
        let Some(Line::Record { seq: Some(seq), chain: Some(chain), .. }) = lines.last() else { panic!("a sealed record") };
        Tip { seq: *seq, chain: Digest::parse(chain).unwrap() }
    }

    #[test]
    fn a_head_that_was_removed_is_missed_by_the_next_one_unless_thinning_may_have_taken_it() {
        let at = |hours: i64| Timestamp::from_seconds(hours * 3600);
        let without_the_second = |times| {
            let mut lines = six_at(times);
            lines.remove(5);
            lines
        };
        assert!(check(&without_the_second([at(1), at(2), at(2)]), &[]).is_ok(), "two of one hour, of which one is enough");
        for times in [[at(1), at(2), at(3)], [at(1), at(1), at(2)]] {
            let missed = (Some((3, 4)), Why::HeadMissing);
            assert_eq!(why(&without_the_second(times)), missed, "the last one of its hour, and one that the last of its hour names");
        }
    }

    #[test]
    fn a_trail_begins_at_its_first_record_or_behind_a_signed_checkpoint() {
        let (_, key) = key_pair(SigningAlg::Es256);
        let lines = six();
        assert_eq!(why(&lines[3..]), (Some((1, 2)), Why::Missing));
        let Line::Head { jws } = &lines[2] else { panic!("a head") };
        let last = verify_head(jws, &trusted().keys).unwrap();
        let checkpoint = Line::Checkpoint { jws: sign_checkpoint(&last, Timestamp::from_seconds(99), key).unwrap() };
        let report = check(&[std::slice::from_ref(&checkpoint), &lines[3..]].concat(), &[]).unwrap();
        assert_eq!((report.purged_to, report.purged_until, report.verified), (Some(2), Some(T), 4));
        // Its own head, and the one after it, were thinned later: the last one of the hour names what is gone.
        assert!(check(&[&[checkpoint], &lines[3..5], &lines[6..]].concat(), &[]).is_ok());
        // A head is no checkpoint: whoever removes the beginning has heads enough.
        assert!(check(&[&[Line::Checkpoint { jws: jws.clone() }], &lines[3..]].concat(), &[]).is_err());
        let report = check(&[&[Line::Start { jws: jws.clone() }], &lines[3..]].concat(), &[]).unwrap();
        assert_eq!((report.began_after, report.verified), (Some(2), 4));
    }

    #[test]
    fn of_a_trail_that_begins_after_a_head_that_was_noted_nobody_can_say_that_it_leads_there() {
        let lines = six();
        let heads = [2, 5].map(|at| {
            let Line::Head { jws } = &lines[at] else { panic!("a head") };
            jws.clone()
        });
        let later = [&[Line::Start { jws: heads[1].clone() }], &lines[6..]].concat();
        assert_eq!(check(&later, &heads[1..]).unwrap().began_after, Some(4));
        assert_eq!(check(&later, &heads[..1]).unwrap_err(), Broken { seq: Some((2, 4)), why: Why::BeginsLater });
        // Another chain of the same length.
        let (_, key) = key_pair(SigningAlg::Es256);
        let other = Tip { seq: 4, chain: genesis().chain };
        let noted = sign_head(&other, &Before { previous: genesis(), kept: genesis() }, None, T, key).unwrap();
        assert_eq!(check(&later, &[noted]).unwrap_err(), Broken { seq: Some((4, 4)), why: Why::OtherChain });
    }

    #[test]
    fn a_member_that_is_named_twice_is_no_line_of_a_trail() {
        let first = serde_json::to_string(&six()[0]).unwrap();
        let twice = first.replacen("\"target\":", "\"target\":{\"sub\":\"mallory\"},\"target\":", 1);
        assert_ne!(first, twice);
        assert_eq!(Trail::new(&trusted(), &[]).unwrap().read(&twice).unwrap_err().why, Why::Unreadable);
    }

    #[test]
    fn what_is_withheld_is_still_linked_and_what_is_erased_must_be_told() {
        let mut lines = six();
        let Line::Record { record: withheld, salts, .. } = &mut lines[1] else { panic!("a record") };
        *withheld = None;
        salts.clear();
        assert_eq!(check(&lines, &[]).unwrap().withheld, 1);
        let mut lines = six();
        let Line::Record { record: Some(whole), salts, erased, .. } = &mut lines[1] else { panic!("a record") };
        let mut proof = Proof { salts: salts.clone(), ..Proof::default() };
        super::super::erase(whole, &mut proof, &|place, _| place == "/actor");
        (*salts, *erased) = (proof.salts, proof.erased);
        assert_eq!(why(&lines), (None, Why::ErasedUntold));
        // Who writes to the database alone can put a record there that tells, and not have it sealed.
        let teller = proven(AuditRecord { act: Act::SubjectErased, ..record(50, &json!({"audit": 1})) });
        assert_eq!(why(&[&lines[..], &[unsealed(&teller)]].concat()), (None, Why::ErasedUnsealed));
        let (_, key) = key_pair(SigningAlg::Es256);
        let mut tip = tip_of(&lines[..8]);
        lines.push(linked(teller, &mut tip));
        lines.push(head(&lines, &tip, None, T, key));
        assert_eq!(check(&lines, &[]).unwrap().erased, 1);
    }
}
