//! Whether a trail is whole: read line by line, in the order of sealing, in whatever memory a line takes.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::record::{Unsound, digest_of, genesis, next_in_chain};
use super::signed::{Misread, SignedHead, verify_checkpoint, verify_head};
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
    /// The trail ends before a head that was noted elsewhere.
    CutShort,
    /// The trail begins after a head that was noted elsewhere, so that nobody can say whether it leads there.
    BeginsLater,
    /// All of it was asked for, and a part is what it says it is.
    NotAsked,
    /// More values are erased than records tell of.
    ErasedUntold,
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
            Why::CutShort => f.write_str("missing: the trail ends before a head that was noted elsewhere"),
            Why::BeginsLater => f.write_str("not there: the trail begins after a head that was noted elsewhere"),
            Why::NotAsked => f.write_str("all of the trail was asked for, and this says that it is a part"),
            Why::ErasedUntold => f.write_str("more values are erased than records tell of"),
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
    /// The number before the first record.
    begins_after: u64,
    /// What the head before covers.
    covered: u64,
    noted: Vec<SignedHead>,
    erasures_told: u64,
    report: Report,
}

impl Trail {
    /// Nothing read yet. The keys are those of a JWK Set that is trusted; `noted` are heads that were kept elsewhere, which the trail must still contain.
    pub fn new(keys: &JwkSet, noted: &[String]) -> Result<Self, Broken> {
        let noted = noted.iter().map(|head| verify_head(head.trim(), &keys.keys)).collect::<Result<_, _>>();
        let noted = noted.map_err(|misread| Broken { seq: None, why: Why::Signed(misread) })?;
        let trusted = keys.keys.clone();
        let report = Report::default();
        let extent = Extent::AsItSays;
        Ok(Self { extent, trusted, offered: BTreeMap::new(), tip: None, begins_after: 0, covered: 0, noted, erasures_told: 0, report })
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
                let tip = verify_checkpoint(&jws, &self.trusted).map_err(|misread| self.broken(Why::Signed(misread)))?;
                self.begin(tip)?;
                self.report.purged_to = Some(tip.seq);
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
        // Whoever notes a head asks whether the trail still leads there: of a part that does not reach it nobody can say so.
        let noted = || self.noted.iter().map(|head| head.tip.seq);
        if let Some(missing) = noted().filter(|seq| *seq > at).max() {
            return Err(Broken { seq: Some((at + 1, missing)), why: Why::CutShort });
        }
        if let Some(first) = noted().filter(|seq| *seq < self.begins_after).min() {
            return Err(Broken { seq: Some((first, self.begins_after)), why: Why::BeginsLater });
        }
        // The records that tell of an erasure are younger than what it erased. Of a part of the trail, or of what is withheld, nobody can say.
        let all_told = self.report.withheld == 0 && !self.report.goes_on;
        if all_told && self.report.erased > self.erasures_told {
            return Err(Broken { seq: None, why: Why::ErasedUntold });
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
        (self.tip, self.begins_after, self.covered) = (Some(tip), tip.seq, tip.seq);
        self.meet(&tip)
    }

    /// A head that was noted for this number vouches for the same chain.
    fn meet(&self, tip: &Tip) -> Result<(), Broken> {
        let is_other = |noted: &SignedHead| noted.tip.seq == tip.seq && noted.tip.chain != tip.chain;
        match self.noted.iter().any(is_other) {
            true => Err(Broken { seq: Some(((self.covered + 1).min(tip.seq), tip.seq)), why: Why::OtherChain }),
            false => Ok(()),
        }
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
                self.erasures_told += erasures(record);
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
        self.accept(head)
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
        self.erasures_told += record.map_or(0, erasures);
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
    use crate::model::key::SigningAlg;
    use crate::seams::Entropy;
    use crate::token::audit::record::tests::record;
    use crate::token::audit::{link, sign_checkpoint, sign_head, written};
    use crate::token::keys::tests::key_pair;

    const T: Timestamp = Timestamp::from_seconds(9);

    fn line(n: i64, before: &mut Tip) -> Line {
        let record = record(n, &json!({"target": {"sub": format!("p-{n}")}, "n": n}));
        let link = link(before, &record, &Entropy::seeded(3)).unwrap();
        *before = Tip { seq: link.seq, chain: link.chain };
        Line::Record {
            seq: Some(link.seq),
            record: Some(written(&record)),
            salts: link.salts,
            erased: link.erased,
            digest: Some(link.digest.to_string()),
            chain: Some(link.chain.to_string()),
        }
    }

    /// Six records, with a head after every second.
    fn six() -> Vec<Line> {
        let (_, key) = key_pair(SigningAlg::Es256);
        let (mut tip, mut lines) = (genesis(), Vec::new());
        for pair in 0..3 {
            let before = tip;
            lines.push(line(2 * pair, &mut tip));
            lines.push(line(2 * pair + 1, &mut tip));
            lines.push(Line::Head { jws: sign_head(&tip, &before, None, T, key).unwrap() });
        }
        lines
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
        lines.push(Line::Record {
            seq: None,
            record: Some(written(&record(99, &json!({})))),
            salts: Places::new(),
            erased: Places::new(),
            digest: None,
            chain: None,
        });
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
            let (start, mut tip) = (genesis(), genesis());
            let mut lines = vec![Line::Key { jwk: jwk.clone() }, line(1, &mut tip)];
            lines.push(Line::Head { jws: sign_head(&tip, &start, next, T, old).unwrap() });
            let before = tip;
            lines.push(line(2, &mut tip));
            lines.push(Line::Head { jws: sign_head(&tip, &before, None, T, new).unwrap() });
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
    fn a_trail_begins_at_its_first_record_or_behind_a_signed_checkpoint() {
        let (_, key) = key_pair(SigningAlg::Es256);
        let lines = six();
        assert_eq!(why(&lines[3..]), (Some((1, 2)), Why::Missing));
        let Line::Head { jws } = &lines[2] else { panic!("a head") };
        let tip = verify_head(jws, &trusted().keys).unwrap().tip;
        let checkpoint = Line::Checkpoint { jws: sign_checkpoint(&tip, T, key).unwrap() };
        let report = check(&[&[checkpoint], &lines[3..]].concat(), &[]).unwrap();
        assert_eq!((report.purged_to, report.verified), (Some(2), 4));
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
        let noted = sign_head(&other, &genesis(), None, T, key).unwrap();
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
        let Line::Record { record, salts, .. } = &mut lines[1] else { panic!("a record") };
        *record = None;
        salts.clear();
        assert_eq!(check(&lines, &[]).unwrap().withheld, 1);
        let mut lines = six();
        let Line::Record { record: Some(record), salts, erased, .. } = &mut lines[1] else { panic!("a record") };
        let salt = salts.remove("/actor").unwrap();
        let (mut whole, mut link) =
            (record.clone(), link(&genesis(), &super::super::record::tests::record(0, &json!({})), &Entropy::seeded(1)).unwrap());
        link.salts = Places::from([("/actor".to_owned(), salt)]);
        super::super::erase(&mut whole, Some(&mut link), &|place, _| place == "/actor");
        (*record, *erased) = (whole, link.erased);
        assert_eq!(why(&lines), (None, Why::ErasedUntold));
    }
}
