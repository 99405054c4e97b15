//! What callers hand to the vault and what it hands back, beside the nouns of `model`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::engine::fault_in;
use super::person::Names;
use crate::model::access::Caller;
use crate::model::alarm::{AlarmKind, AlarmState};
use crate::model::attempt::{AttemptRecord, PastAttempt};
use crate::model::audit::{Act, Head, Link, Tip, TrailRecord};
use crate::model::client::ClientRecord;
use crate::model::cut_off::CutOffScope;
use crate::model::delivery::{Class, DeliveryKind, DeliveryState, DeliveryView, Lane, SettledReason, Tally, Verdict};
use crate::model::effects::{OpeningRule, Reach, ReportRules};
use crate::model::event::{EventState, Receipt};
use crate::model::issuer::{IssuerRecord, ProviderDocument};
use crate::model::key::words;
use crate::model::lane::LaneChange;
use crate::model::report::{ReportRefused, Reported, TokenName};
use crate::model::rotation::{Rotated, Rotation};
use crate::model::schedule::Schedule;
use crate::model::session::{Life, SessionView};
use crate::model::token::{TokenEventKind, TokenFacts, TokenKind};
use crate::model::trace::TraceContext;
use crate::model::trigger::{Idempotency, Reason, Trigger};
use crate::model::{
    Alias, AuditId, ClientId, DeliveryId, Digest, EventId, IssuerId, Jti, ProviderKey, ReplicaId, SessionId, Sid, Subject, Timestamp,
    WorkId,
};

/// Why the vault did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not known to be committed: the caller repeats it.
    #[error("{}", fault_in(.0.as_ref()).told())]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It could not be looked at; nothing was to be changed.
    #[error("{}", fault_in(.0.as_ref()).told())]
    Unread(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is stored cannot be read.
    #[error("{table}.{column} holds what cannot be read")]
    Corrupt {
        /// Where.
        table: &'static str,
        /// Which column.
        column: &'static str,
    },
}

/// Whether a commit is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Commit,
    /// Everything is done, counted and undone: nothing remains.
    Rehearse,
}

/// A committed or rehearsed logout.
#[derive(Debug)]
pub struct Committed {
    /// Its receipt.
    pub receipt: Receipt,
    /// The idempotency key was known: this is the first answer's logout as it stands now.
    pub replayed: bool,
}

/// Why a logout was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitRefused {
    /// The key names another request.
    #[error("the idempotency key was used with another body")]
    IdempotencyKeyReused,
    /// More than one transaction may hold.
    #[error("the target names more than {max} sessions or participations")]
    TooMany {
        /// The largest number.
        max: usize,
    },
    /// A provider's list would end more of what lives than a list may.
    #[error("the list would end {ends} of {live} live sessions, and may end {max}")]
    ReconcileTooMuch {
        /// How many it would end.
        ends: u64,
        /// Of how many.
        live: u64,
        /// How many it may end.
        max: u64,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What became of a change to the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// It replaced what was there, or removed it.
    Replaced,
    /// Somebody else changed it first.
    Stale,
    /// There is no such thing.
    Absent,
    /// Something that lives depends on it.
    InUse,
    /// Its name is taken.
    Conflict,
}

/// An audit record without id and time: the store adds them in the transaction of what it records.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// What was done.
    pub act: Act,
    /// By whom.
    pub caller: Caller,
    /// On whose behalf.
    pub actor: Option<String>,
    /// At which issuer.
    pub issuer: Option<IssuerId>,
    /// By which logout.
    pub event: Option<EventId>,
    /// To what and why, as a JSON object.
    pub detail: String,
}

impl AuditEntry {
    /// What a caller did somewhere, with what it says of it itself.
    pub fn of(act: Act, caller: &Caller, mut detail: serde_json::Value) -> Self {
        if let (Some(note), Some(members)) = (&caller.behalf.note, detail.as_object_mut()) {
            members.entry("note").or_insert_with(|| note.as_str().into());
        }
        let (caller, actor) = (caller.clone(), caller.behalf.actor.clone());
        Self { act, caller, actor, issuer: None, event: None, detail: detail.to_string() }
    }

    /// The same with more that is known only once it is done.
    #[must_use]
    pub fn with(&self, more: serde_json::Value) -> Self {
        let mut detail: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&self.detail).unwrap_or_default();
        detail.extend(more.as_object().cloned().unwrap_or_default());
        Self { detail: serde_json::Value::Object(detail).to_string(), ..self.clone() }
    }
}

/// What happens to the pending deliveries of a client that is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// They go on with its last URI.
    Deliver,
    /// They are cancelled.
    Cancel,
}

/// Which logouts.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Of which issuer.
    pub issuer: Option<IssuerId>,
    /// Open or settled.
    pub state: Option<EventState>,
    /// With a delivery to this client.
    pub client_id: Option<ClientId>,
    /// For this reason.
    pub reason: Option<Reason>,
    /// Committed at or after.
    pub since: Option<Timestamp>,
    /// Committed before.
    pub until: Option<Timestamp>,
    /// Concerning this subject.
    pub sub: Option<Subject>,
    /// Concerning this session of the provider's.
    pub sid: Option<Sid>,
    /// With this correlation id.
    pub correlation_id: Option<String>,
    /// On behalf of this actor.
    pub actor: Option<String>,
    /// Posted by this caller, or by the server itself.
    pub caller: Option<String>,
}

/// Which deliveries.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    /// Of which issuer.
    pub issuer: Option<IssuerId>,
    /// Of which logout.
    pub event: Option<EventId>,
    /// In which state.
    pub state: Option<DeliveryState>,
    /// To which client.
    pub client_id: Option<ClientId>,
    /// Only those to clients, not what the provider is told.
    pub to_clients: bool,
    /// Of logouts posted by this caller, or by the server itself.
    pub caller: Option<String>,
    /// Written at or after.
    pub since: Option<Timestamp>,
    /// Written before.
    pub until: Option<Timestamp>,
}

/// What sessions are found by.
#[derive(Clone, Debug)]
pub enum SessionSearch {
    /// The provider's `sub`, or one a client saw.
    Subject(Subject),
    /// The provider's `sub` alone.
    Owner(Subject),
    /// The provider's `sid`, or one a client saw.
    Sid(Sid),
    /// A client taking part, or having taken part.
    Client(ClientId),
    /// Another name of the person.
    Alias(Alias),
    /// The device.
    Device(String),
    /// The address it came from.
    Ip(String),
}

/// Which sessions.
#[derive(Clone, Debug)]
pub struct SessionFilter {
    /// Of which issuer.
    pub issuer: IssuerId,
    /// Live or ended.
    pub state: Option<Life>,
    /// Found by what.
    pub by: Option<SessionSearch>,
}

/// Which audit records.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Of which issuer.
    pub issuer: Option<IssuerId>,
    /// Of which act.
    pub act: Option<Act>,
    /// At or after.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

/// Records that are to be linked to the end of the audit trail's chain, with the head over them.
#[derive(Clone, Debug)]
pub struct Sealing {
    /// The end they are linked to.
    pub after: Tip,
    /// They, and their places.
    pub records: Vec<(AuditId, Link)>,
    /// The head over the last of them.
    pub head: Head,
    /// The key that signs from then on, where the head names one.
    pub next: Option<String>,
}

/// All that a person is known by, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// The person, as their provider calls them.
    pub sub: String,
    /// Every name of theirs, of their sessions and of their devices that is nobody else's.
    pub names: Names,
    /// Their sessions, in the order of their ids.
    pub sessions: Vec<String>,
    /// Logouts that name them, in the order of their ids.
    pub events: BTreeSet<String>,
    /// Logouts that name one of these names and had to do with somebody else.
    pub of_others: BTreeSet<String>,
    /// Their access tokens.
    pub access_tokens: Vec<String>,
    /// Their grants.
    pub grants: Vec<String>,
}

/// Who is to be erased.
#[derive(Clone, Debug)]
pub struct Erasure {
    /// At which issuer.
    pub issuer: IssuerId,
    /// Whom.
    pub sub: Subject,
    /// What was found of them.
    pub sight: Sight,
    /// Audit records as they shall be.
    pub trail: Vec<TrailRecord>,
    /// How many values of them that erases.
    pub marks: u64,
    /// Who wants it; what it did is added.
    pub audit: AuditEntry,
}

/// What became of an erasure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Erasing {
    /// They are nobody.
    Done(Erased),
    /// Nothing was done, since something is going on.
    Refused(InTheWay),
    /// Nothing was done, since something was found that had not been seen before: look again.
    Changed,
}

/// What an erasure did, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Sessions that are nobody's now.
    pub sessions: u64,
    /// Participations.
    pub participants: u64,
    /// Logouts that named them.
    pub logouts: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// Cut-offs that go on under a digest.
    pub cut_offs: u64,
    /// Grants and access tokens.
    pub tokens: u64,
    /// Audit records that named them.
    pub audit_records: u64,
    /// When the last of the digests in cut-offs goes, if there are any.
    pub protected_until: Option<Timestamp>,
}

/// Why somebody cannot be erased yet, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InTheWay {
    /// Sessions that live.
    pub sessions: u64,
    /// Deliveries that are open.
    pub deliveries: u64,
    /// Offline grants that are good.
    pub grants: u64,
    /// Logouts of many, and replays, that are under way at the issuer.
    pub works: u64,
}

/// All that is known of where a person is, and where they may still be.
#[derive(Clone, Debug)]
pub struct SubjectRecord {
    /// Their sessions, newest first, at most 1,000.
    pub sessions: Vec<SessionView>,
    /// Where they are still in, by application.
    pub still_open: Vec<StillOpen>,
    /// Where somebody may be in whom an application calls so, in a session that is not known to be theirs.
    pub by_client_sub: Vec<StillOpen>,
}

/// An application a person is still in, or may be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StillOpen {
    /// Which application.
    pub client_id: ClientId,
    /// Why it counts as open.
    pub why: OpenWhy,
    /// Until when at most, if that is known.
    pub until: Option<Timestamp>,
}

/// Why an application counts as open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpenWhy {
    /// The participation lives.
    Live,
    /// It has not answered yet.
    Pending,
    /// It refused, or did not answer before the horizon.
    GaveUp,
    /// It could not be told.
    Unreachable,
    /// Telling it was cancelled.
    Cancelled,
    /// A refresh token with `offline_access` is good.
    OfflineToken,
}

/// All that is known of a token: what decides whether it is active, and what may be told of one that is.
#[derive(Clone, Debug)]
pub struct TokenRecord {
    /// What it is for.
    pub kind: TokenKind,
    /// The client it was issued to, where that is known.
    pub client_id: Option<ClientId>,
    /// The `sub` it was registered with, or says.
    pub sub: Option<Subject>,
    /// The `sid` of its session: the provider's, or what the token says.
    pub sid: Option<Sid>,
    /// Its scope.
    pub scope: Option<String>,
    /// Whom it is for.
    pub aud: Vec<String>,
    /// When it begins to be good.
    pub not_before: Option<Timestamp>,
    /// Granted with `offline_access`.
    pub offline_access: bool,
    /// The `jti` it is registered by, or says.
    pub jti: Option<Jti>,
    /// What decides whether it is active.
    pub facts: TokenFacts,
}

/// Something that was noticed about a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noticed {
    /// What.
    pub kind: TokenEventKind,
    /// The client that showed it, or that it was issued to.
    pub client_id: ClientId,
    /// Its session, where that is known.
    pub session: Option<SessionId>,
}

/// What a transaction about tokens brought about beside its answer, to be told once it is committed.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What was noticed; counted and on record already.
    pub noticed: Vec<Noticed>,
    /// The logouts it committed.
    pub logouts: Vec<Receipt>,
}

/// Something a door noticed about a token, on its way into the database.
#[derive(Clone, Debug)]
pub struct TokenNotice {
    /// At which issuer.
    pub issuer: IssuerId,
    /// Who showed the token to us.
    pub caller: Caller,
    /// What was noticed.
    pub kind: TokenEventKind,
    /// The client that showed it, or that it was issued to.
    pub client_id: ClientId,
    /// The names it may be registered by.
    pub names: Vec<TokenName>,
}

/// What became of reports.
#[derive(Debug)]
pub struct Told {
    /// Of each, in their order.
    pub outcomes: Vec<Result<Reported, ReportRefused>>,
    /// What they brought about beside.
    pub seen: Seen,
}

/// A rotation a provider asks for.
#[derive(Clone, Debug)]
pub struct RotationOrder {
    /// Whose tokens.
    pub issuer: IssuerRecord,
    /// Who asks.
    pub caller: Caller,
    /// What is asked.
    pub rotation: Rotation,
    /// What it is judged by.
    pub rules: ReportRules,
}

/// What became of a rotation.
#[derive(Debug)]
pub struct Turned {
    /// Whether the token may be replaced, and how its family stands.
    pub outcome: Result<Rotated, ReportRefused>,
    /// What it brought about beside.
    pub seen: Seen,
}

/// A token that is to be revoked, as it was found.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// At which issuer.
    pub issuer: IssuerId,
    /// What it is for.
    pub kind: TokenKind,
    /// What it may be registered by. The first is the digest of its octets.
    pub names: Vec<TokenName>,
    /// The `jti` of an access token that says so itself, and whose signature was verified.
    pub jti: Option<Jti>,
    /// The client it was issued to.
    pub client_id: Option<ClientId>,
    /// When it expires by itself, where that is known.
    pub expires_at: Option<Timestamp>,
    /// What goes on record if it was good until now.
    pub audit: AuditEntry,
}

/// What became of a token that was to be revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// It is revoked.
    Now,
    /// It was before.
    Before,
}

/// One settled attempt on its way into the database.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// What was told.
    pub kind: DeliveryKind,
    /// Proof of the lease.
    pub lease_token: i64,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Failures so far, by kind.
    pub tally: Tally,
    /// Attempts charged so far.
    pub attempts: u32,
    /// The attempt; none when nothing was sent.
    pub attempt: Option<AttemptRecord>,
}

/// What became of a settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// Its logout.
    pub event: EventId,
    /// The lease was lost: somebody else settles, nothing was changed.
    pub fenced: bool,
}

/// What is pending of one lane, class and turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Which lane.
    pub lane: Lane,
    /// Which class.
    pub class: Class,
    /// First attempts, or those that were attempted before.
    pub retry: bool,
    /// When the first of it is due, or its lease runs out.
    pub due_at: Timestamp,
}

/// What a client's registration says about its lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneSettings {
    /// Whose lane.
    pub lane: Lane,
    /// How many attempts may run at once, over all processes.
    pub max_in_flight: u16,
    /// How many may begin in a second, over all processes.
    pub rate_per_s: Option<u16>,
    /// Where it is told.
    pub uri: Option<url::Url>,
}

/// One delivery that is to find out whether a receiver is back.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The lane or host that is open.
    pub of: Lane,
    /// The lane the delivery is taken from.
    pub from: Lane,
    /// How many probes there were, as the prober has seen it.
    pub probes: u32,
    /// Now.
    pub now: Timestamp,
    /// When the next probe goes out, if this one does not close the lane.
    pub next_at: Timestamp,
    /// When its lease ends.
    pub lease_until: Timestamp,
    /// The prober's fresh random number.
    pub lease_token: i64,
}

/// A change of a lane or host on its way into the database.
#[derive(Clone, Debug)]
pub struct LaneNote {
    /// Which.
    pub lane: Lane,
    /// What becomes of it.
    pub change: LaneChange,
    /// When the first probe goes out, where it opens.
    pub probe_at: Timestamp,
    /// The lanes whose repeats are due at once, where it closes.
    pub hasten: Vec<Lane>,
}

/// The oldest pending delivery of a lane that is not simply well.
#[derive(Clone, Debug)]
pub struct Oldest {
    /// Which lane.
    pub lane: Lane,
    /// The largest share of its horizon that was told already, in percent.
    pub told: u8,
    /// Since when it is parked.
    pub parked_at: Option<Timestamp>,
    /// When the delivery expires.
    pub horizon_at: Timestamp,
    /// How long it is tried in all.
    pub horizon: Duration,
}

/// A delivery whose horizon passed while it waited.
#[derive(Clone, Debug)]
pub struct Passed {
    /// Which.
    pub delivery: DeliveryId,
    /// Its logout.
    pub event: EventId,
    /// Whom it was for.
    pub client_id: ClientId,
    /// The lane it waited in.
    pub lane: Lane,
    /// Attempts charged.
    pub attempts: u32,
    /// When it was written.
    pub created_at: Timestamp,
}

/// What is read beside a claimed delivery, at each attempt.
#[derive(Clone, Debug)]
pub struct AttemptFacts {
    /// Its issuer.
    pub issuer: IssuerRecord,
    /// Its client as it is registered now; a deleted one with its last URI.
    pub client: Option<ClientRecord>,
    /// Live participations at that client under the same `sub` or `sid`, newest first, at most ten: when each was joined, and its `sid`.
    pub live: Vec<(Timestamp, Option<Sid>)>,
    /// Its logout was undone, and no other waits for it.
    pub undone: bool,
    /// What is known beside it of the session a provider is to be told of.
    pub provider: Option<ProviderFacts>,
    /// What else is known of a delivery that passes a provider's token on.
    pub relayed: Option<RelayedFacts>,
    /// What else is known of a refresh token that a provider is to revoke.
    pub revocation: Option<RevocationFacts>,
    /// The trace its logout belongs to.
    pub trace: Option<TraceContext>,
}

/// What is known of a refresh token that a provider is to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationFacts {
    /// What it is registered by, and its octets, sealed; none when it is no longer kept.
    pub token: Option<(String, String)>,
    /// What the provider said of itself when it was asked last.
    pub document: Option<ProviderDocument>,
}

/// What is known of a session that a provider is to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderFacts {
    /// The provider's own key of it.
    pub key: Option<ProviderKey>,
    /// Why it ended.
    pub reason: Reason,
    /// When the latest live session of the same name began.
    pub same: Option<Timestamp>,
    /// When the latest live session of the same subject began.
    pub any: Option<Timestamp>,
}

/// What is known of a delivery that passes a provider's token on.
#[derive(Clone, Debug)]
pub struct RelayedFacts {
    /// The token, as long as it is kept.
    pub theirs: Option<SealedToken>,
    /// Earlier attempts, the first ones first.
    pub past: Vec<PastAttempt>,
    /// When the provider was last seen to publish the key this client's tokens are signed with.
    pub key_seen_at: Option<Timestamp>,
}

/// A provider's token as it rests.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedToken {
    /// Sealed.
    pub octets: Vec<u8>,
    /// Until when it may be passed on.
    pub fresh_until: Timestamp,
}

impl std::fmt::Debug for SealedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedToken").field("fresh_until", &self.fresh_until).finish_non_exhaustive()
    }
}

/// A logout token as it is remembered, so that it is taken once (BCL 2.6 (8)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedToken {
    /// Whom it is for.
    pub audience: ClientId,
    /// Its identifier.
    pub jti: Jti,
    /// The SHA-256 of its octets.
    pub digest: Digest,
    /// Until when it would be taken again.
    pub taken_until: Timestamp,
}

/// A provider's logout token that was verified, and what it comes to.
#[derive(Clone, Debug)]
pub struct TokenOrder {
    /// Its trigger.
    pub trigger: Trigger,
    /// What that reaches.
    pub reach: Reach,
    /// What receipts show.
    pub target_json: String,
    /// What is remembered of it.
    pub received: ReceivedToken,
    /// Whom it speaks to.
    pub effect: TokenEffect,
    /// How deliveries begin.
    pub opening: OpeningRule,
}

/// Whom a provider's logout token speaks to.
#[derive(Clone, Debug)]
pub enum TokenEffect {
    /// One of its clients: that client's participation ends, and it is told.
    Relay {
        /// The `sub` that client saw.
        sub: Option<Subject>,
        /// The `sid` that client saw.
        sid: Option<Sid>,
        /// The token, where it is to be passed on unchanged.
        theirs: Option<SealedToken>,
    },
    /// This server: sessions end.
    Cascade {
        /// Whose sessions without a `sid` end where the named session is not known.
        otherwise: Option<Subject>,
    },
}

/// What became of a provider's logout token.
#[derive(Clone, Debug)]
pub enum TokenTaken {
    /// It took effect, in a receipt of its own.
    Committed(Receipt),
    /// It took effect, in the receipt of another token about the same session.
    Joined(Receipt),
    /// It was taken before, and nothing more was done.
    Repeated,
    /// That client is being told, or was told a moment ago: nothing more was done.
    Echoed,
}

/// Why a provider's logout token was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TokenRefused {
    /// Its `jti` was another token's.
    #[error("its jti was used for another token")]
    JtiReused,
    /// It could not be committed.
    #[error(transparent)]
    Commit(#[from] CommitRefused),
}

impl From<StoreError> for TokenRefused {
    fn from(error: StoreError) -> Self {
        Self::Commit(error.into())
    }
}

words! {
    /// What a work does, page by page.
    WorkKind, "a kind of work" {
        /// It ends sessions or participations.
        Expand = "expand",
        /// It opens settled deliveries again.
        Replay = "replay",
        /// It cancels what an undone logout has not sent.
        Cancel = "cancel",
    }
}

/// What a page of a work did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advanced {
    /// What kind of work it is.
    pub kind: WorkKind,
    /// Its logout, if it belongs to one.
    pub event: Option<EventId>,
    /// How many sessions and participations it ended.
    pub ended: u64,
    /// How many deliveries it settled.
    pub settled: u64,
    /// Nothing is left to do.
    pub done: bool,
}

/// Which alarms.
#[derive(Clone, Debug, Default)]
pub struct AlarmFilter {
    /// Only this issuer's.
    pub issuer: Option<IssuerId>,
    /// Only those of this kind.
    pub kind: Option<AlarmKind>,
    /// Only those that stand so.
    pub state: Option<AlarmState>,
}

/// What became of telling somebody of an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// He knows; while it stays open he is told again after this time.
    Done {
        /// How long.
        again: Duration,
    },
    /// It did not reach him; it is tried again after this time.
    Failed {
        /// How long.
        again: Duration,
    },
}

/// Deliveries counted by state, and the account of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All that were ever written, by the account.
    pub enqueued: u64,
    /// Those that were kept long enough and are gone, by the account.
    pub forgotten: u64,
    /// How many are in each state.
    pub by_state: Vec<(DeliveryState, u64)>,
    /// When the oldest pending one was written.
    pub oldest_pending: Option<Timestamp>,
}

/// A process's wish to do a chore.
#[derive(Clone, Debug)]
pub struct ChoreCall {
    /// Which chore.
    pub name: &'static str,
    /// Which process.
    pub holder: ReplicaId,
    /// For how long at first.
    pub hold: Duration,
    /// Why now.
    pub occasion: ChoreOccasion,
}

/// Why a chore is to be done now.
#[derive(Clone, Debug)]
pub enum ChoreOccasion {
    /// Its time has come; once is enough for all processes.
    Schedule(Schedule),
    /// Something was left for it.
    Ring,
}

/// What came of the wish to do a chore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChoreTurn {
    /// It is this process's to do.
    Ours {
        /// When it was taken.
        at: Timestamp,
    },
    /// Another process does it.
    Held {
        /// For how long at most, unless it holds on.
        left: Duration,
    },
    /// It was done since its time had come.
    Done,
}

/// How a lane stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneView {
    /// Which lane.
    pub lane: Lane,
    /// How many deliveries wait in it, those in flight included.
    pub pending: u64,
    /// When the oldest of them was written.
    pub oldest: Option<Timestamp>,
    /// How many attempts run now, over all processes.
    pub in_flight: u64,
    /// Since when an operator holds it.
    pub paused_at: Option<Timestamp>,
    /// Since when it is parked.
    pub parked_at: Option<Timestamp>,
    /// Since when every attempt has failed.
    pub failing_since: Option<Timestamp>,
    /// While it is set, nothing but a probe goes out, at this time.
    pub probe_at: Option<Timestamp>,
}

/// A cut-off that somebody orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOffOrder {
    /// What it covers.
    pub scope: CutOffScope,
    /// Tokens issued before this instant are inactive.
    pub not_before: Timestamp,
    /// When it ceases; none: when it is removed.
    pub expires_at: Option<Timestamp>,
}

/// What expires in a lane if nothing is delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Since when an operator holds the lane.
    pub paused_at: Option<Timestamp>,
    /// How many deliveries wait in it.
    pub pending: u64,
    /// When the first of them expires.
    pub first_expires_at: Option<Timestamp>,
    /// When the last of them expires.
    pub last_expires_at: Option<Timestamp>,
    /// How many expire before each of some instants.
    pub expiring: Vec<(Timestamp, u64)>,
}

/// What became of a retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retried {
    /// It is open, with new patience.
    Opened(Box<DeliveryView>),
    /// Nothing could be sent to the client as it is registered: it stays as it is.
    CannotBeTold(SettledReason),
    /// There is no such delivery.
    Absent,
}

/// What became of a cancellation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It is cancelled.
    Done(Box<DeliveryView>),
    /// It was settled before, so.
    Settled(DeliveryState),
    /// There is no such delivery.
    Absent,
}

/// Which settled deliveries are replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Of which issuer.
    pub issuer: IssuerId,
    /// To which client.
    pub client_id: Option<ClientId>,
    /// In which settled states.
    pub states: Vec<DeliveryState>,
    /// Written at or after.
    pub since: Option<Timestamp>,
    /// Written before.
    pub until: Option<Timestamp>,
    /// Of logouts for this reason.
    pub reason: Option<Reason>,
    /// Settled until then: what a replay opens and is settled again is not replayed once more by it.
    pub settled_before: Timestamp,
}

/// What a replay did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// How many deliveries its filter found.
    pub matched: u64,
    /// How many of them were opened again at once.
    pub reopened: u64,
    /// How many are left to the work.
    pub remaining: u64,
    /// The work that goes on with them.
    pub work: Option<WorkId>,
}

/// A delivery that may be opened again: whom it is to tell what.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(in crate::store) struct Candidate {
    pub(in crate::store) id: String,
    pub(in crate::store) kind: String,
    pub(in crate::store) client_id: String,
    pub(in crate::store) sid: Option<String>,
    pub(in crate::store) sub: Option<String>,
    pub(in crate::store) created_at: i64,
}

/// How long what is over is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// An idempotency key, after its first use.
    pub idempotency: Duration,
    /// A logout, after the last of its deliveries settled.
    pub settled: Duration,
    /// A session, after its end.
    pub sessions: Duration,
    /// An audit record.
    pub audit: Duration,
}

/// What is forgotten by itself, beside logouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgettable {
    /// Keys of requests nobody repeats any more.
    IdempotencyKeys,
    /// Refresh tokens that expired a day ago, and grants without any left.
    RefreshTokens,
    /// Grants that were revoked long ago.
    Grants,
    /// Sessions that ended long ago and of which nobody is to be told any more.
    Sessions,
    /// Cut-offs older than anything they could cover.
    CutOffs,
    /// Works that were done a day ago.
    Works,
    /// Processes that were not seen for a day.
    Replicas,
    /// Lanes about which there is nothing to remember.
    Lanes,
    /// Providers' tokens that may no longer be passed on.
    RelayedTokens,
    /// Identifiers of providers' tokens that would no longer be taken.
    ReceivedTokens,
    /// Access tokens that expired a day ago.
    AccessTokens,
    /// Replaced refresh tokens without an end of their own, older than anybody would use again.
    RotatedTokens,
    /// Tokens themselves that need not be shown again; what they are registered by stays.
    SealedTokens,
    /// Names on the denylist whose time has passed.
    Denied,
    /// Assertions that would no longer be taken.
    Assertions,
    /// Cut-offs by order that ceased a day ago.
    LapsedCutOffs,
    /// Marks of newest tokens, older than any token lives.
    NewestTokens,
    /// Gaps that were closed long ago.
    Gaps,
    /// Alarms that were over a month ago.
    Alarms,
}

impl Forgettable {
    /// Every kind, what refers to others before what is referred to.
    pub const ALL: &'static [Self] = &[
        Self::IdempotencyKeys,
        Self::RefreshTokens,
        Self::Grants,
        Self::Sessions,
        Self::CutOffs,
        Self::Works,
        Self::Replicas,
        Self::Lanes,
        Self::RelayedTokens,
        Self::ReceivedTokens,
        Self::AccessTokens,
        Self::RotatedTokens,
        Self::SealedTokens,
        Self::Denied,
        Self::Assertions,
        Self::LapsedCutOffs,
        Self::NewestTokens,
        Self::Gaps,
        Self::Alarms,
    ];
}

/// A live session, as far as a provider's list is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSession {
    /// Its id here.
    pub id: SessionId,
    /// The provider's `sid`.
    pub sid: Option<Sid>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it was first reported.
    pub created_at: Timestamp,
}

/// What a provider's list of live sessions comes to.
#[derive(Clone, Debug)]
pub struct Reconciliation {
    /// Whose sessions.
    pub issuer: IssuerId,
    /// Who listed what lives.
    pub caller: Caller,
    /// The caller's key for repeating this safely.
    pub idempotency: Option<Idempotency>,
    /// When the list was made, and so when what it does not name had ended.
    pub as_of: Timestamp,
    /// How many sessions live here.
    pub live: u64,
    /// Those that are not in the list.
    pub absent: Vec<SessionId>,
    /// How many of them may end.
    pub ends_max: u64,
    /// How the deliveries begin.
    pub opening: OpeningRule,
}

/// A gap that an operator opens: from when to when nothing is known.
#[derive(Clone, Debug)]
pub struct GapOrder {
    /// Its begin.
    pub since: Timestamp,
    /// Its end; none for now, by the database's clock.
    pub until: Option<Timestamp>,
}

/// How many gaps may be open at an issuer.
pub const OPEN_GAPS_MAX: u16 = 100;

/// Under which name a backup carries the instant it was taken, in milliseconds, until its first start.
pub const BACKUP_TAKEN_AT: &str = "backup_taken_at";

/// Under which name the database remembers the key its secrets are sealed with.
pub const CANARY: &str = "sealing_canary";
/// Under which name it keeps what digests are made with, once that is not the sealing key itself.
pub const DIGEST_ROOT: &str = "digest_root";

/// What kinds of values are sealed, and where they rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedKind {
    /// The private half of a signing key.
    SigningKey,
    /// A client's certificate and private key for TLS.
    ClientTls,
    /// A client's headers.
    ClientHeaders,
    /// What a provider is told with.
    ProviderLogout,
    /// A provider's own token that is passed on.
    RelayedToken,
    /// What a provider is asked about tokens with.
    Introspection,
    /// What a provider is told of revoked tokens with.
    Revocation,
    /// What the secrets of an issuer's subjects are derived from.
    SubjectSecrets,
    /// A client's own secret at its provider.
    ProviderSecret,
    /// A refresh token that has to be shown again.
    RefreshToken,
    /// The private half of a key that signs the audit trail.
    AuditKey,
}

impl SealedKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::SigningKey,
        Self::ClientTls,
        Self::ClientHeaders,
        Self::ProviderLogout,
        Self::RelayedToken,
        Self::Introspection,
        Self::Revocation,
        Self::SubjectSecrets,
        Self::ProviderSecret,
        Self::RefreshToken,
        Self::AuditKey,
    ];
}

/// A sealed value, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedValue {
    /// Of which kind.
    pub kind: SealedKind,
    /// Of which issuer.
    pub issuer: String,
    /// Its name there; empty where the issuer has one alone.
    pub name: String,
    /// It, in base64.
    pub sealed: String,
}

/// A value that was sealed with another key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resealed {
    /// As it was.
    pub of: SealedValue,
    /// As it is sealed now, in base64.
    pub anew: String,
}
