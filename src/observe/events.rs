//! One struct for each thing that happens, with `emit()`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tracing::{debug, error, info, warn};

use super::metrics as names;
use crate::model::alarm::AlarmKind;
use crate::model::attempt::OutcomeClass;
use crate::model::certificate::{CertificateKind, Holder};
use crate::model::delivery::{Class, DeliveryState, SettledReason};
use crate::model::event::Counts;
use crate::model::token::TokenEventKind;
use crate::model::trigger::Reason;
use crate::model::{ClientId, DeliveryId, EventId, IssuerId, Timestamp, WorkId};

/// A logout became true.
#[derive(Debug)]
pub struct LogoutCommitted<'a> {
    /// Which.
    pub event: &'a EventId,
    /// Whose issuer.
    pub issuer: &'a IssuerId,
    /// Why.
    pub reason: Reason,
    /// The class of its deliveries.
    pub class: Class,
    /// How many sessions it ended.
    pub sessions: u64,
    /// How many deliveries it wrote.
    pub deliveries: u64,
}

impl LogoutCommitted<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let Self { event, issuer, reason, class, sessions, deliveries } = self;
        info!(%event, %issuer, %reason, %class, sessions, deliveries, "a logout was committed");
        counter!(names::LOGOUTS, "reason" => reason.as_str(), "class" => class.as_str()).increment(1);
        counter!(names::SESSIONS_ENDED).increment(*sessions);
    }
}

/// Deliveries became due, by whatever transaction.
#[derive(Debug)]
pub struct DeliveriesPlanned {
    /// How many.
    pub count: u64,
}

impl DeliveriesPlanned {
    /// Counts them.
    pub fn emit(&self) {
        counter!(names::DELIVERIES_PLANNED).increment(self.count);
    }
}

/// Deliveries were settled as they were written: nobody could ever be told.
#[derive(Debug)]
pub struct DeliveriesUnreachable {
    /// Why not.
    pub reason: SettledReason,
    /// How many.
    pub count: u64,
}

impl DeliveriesUnreachable {
    /// Counts them.
    pub fn emit(&self) {
        let state = DeliveryState::Unreachable.as_str();
        counter!(names::DELIVERIES_SETTLED, "state" => state, "reason" => self.reason.as_str()).increment(self.count);
    }
}

/// Spans were recorded that nobody will see.
#[derive(Debug)]
pub struct SpansDropped {
    /// How many.
    pub count: usize,
    /// Because the queue was full, or the collector took none.
    pub why: &'static str,
}

impl SpansDropped {
    /// Counts them.
    pub fn emit(&self) {
        counter!(names::SPANS_DROPPED, "why" => self.why).increment(self.count as u64);
    }
}

/// Somebody was told of an alarm, or was not.
#[derive(Debug)]
pub struct AlarmTold<'a> {
    /// What is wrong.
    pub kind: AlarmKind,
    /// With what.
    pub about: &'a str,
    /// What came of it; none when he took it.
    pub failed: Option<&'a str>,
    /// Which try.
    pub attempt: u32,
}

impl AlarmTold<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let Self { kind, about, failed, attempt } = self;
        let outcome = match failed {
            None => {
                info!(%kind, about, attempt, "an alarm was told");
                "told"
            }
            Some(why) => {
                warn!(%kind, about, attempt, why, "an alarm could not be told; it is tried again");
                "failed"
            }
        };
        counter!(names::ALARMS_TOLD, "outcome" => outcome).increment(1);
    }
}

/// The alarms that are open.
#[derive(Debug)]
pub struct AlarmsCounted {
    /// How many of each kind.
    pub open: Vec<(AlarmKind, usize)>,
}

impl AlarmsCounted {
    /// Sets the gauges.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub fn emit(&self) {
        names::together(|| {
            for (kind, count) in &self.open {
                gauge!(names::ALARMS, "kind" => kind.as_str()).set(*count as f64);
            }
        });
    }
}

/// The clocks of others were compared with this server's.
#[derive(Debug)]
pub enum ClockCompared {
    /// They differ, by seconds; positive when the others are ahead.
    Differs(i64),
    /// They agree again.
    Agrees,
}

impl ClockCompared {
    /// Tells it, at each change.
    pub fn emit(&self) {
        match self {
            Self::Differs(seconds) => error!(
                seconds,
                "this server's clock differs from those of relying parties and providers: tokens may be refused as too old or as not yet valid"
            ),
            Self::Agrees => info!("this server's clock agrees with others again"),
        }
    }
}

/// By how much the clocks of others differ, as far as is known.
#[derive(Debug)]
pub struct ClockSeen {
    /// Seconds; positive when the others are ahead.
    pub seconds: i64,
}

impl ClockSeen {
    /// Sets the gauge.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub fn emit(&self) {
        gauge!(names::CLOCK_SKEW).set(self.seconds as f64);
    }
}

/// What waits for a client that the configuration names.
#[derive(Debug)]
pub struct PinnedSeen<'a> {
    /// Its issuer.
    pub issuer: &'a IssuerId,
    /// The client.
    pub client_id: &'a ClientId,
    /// How many deliveries wait.
    pub pending: u64,
    /// The age of the oldest.
    pub oldest: Duration,
    /// Nothing but probes goes out.
    pub open: bool,
}

impl PinnedSeen<'_> {
    /// Sets the gauges. The names are those of the configuration: there are few, and they stay.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub fn emit(&self) {
        let labels = [("issuer", self.issuer.to_string()), ("client_id", self.client_id.to_string())];
        gauge!(names::PINNED_PENDING, &labels).set(self.pending as f64);
        gauge!(names::PINNED_OLDEST, &labels).set(self.oldest.as_secs_f64());
        gauge!(names::PINNED_OPEN, &labels).set(if self.open { 1.0 } else { 0.0 });
    }
}

/// What became of a provider's logout token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenOutcome {
    /// It took effect.
    Accepted,
    /// It took effect, in the receipt of another about the same session.
    Joined,
    /// It was taken before.
    Repeated,
    /// What it says was being told already.
    Echoed,
    /// It is none, or none for us; why, by a word of a closed set.
    Refused(&'static str),
    /// It could not be checked or committed, and its sender was asked to send it again.
    Deferred,
}

impl TokenOutcome {
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Accepted => ("accepted", ""),
            Self::Joined => ("joined", ""),
            Self::Repeated => ("repeated", ""),
            Self::Echoed => ("echoed", ""),
            Self::Refused(why) => ("refused", why),
            Self::Deferred => ("deferred", ""),
        }
    }
}

/// Somebody posted a logout token at an issuer's door.
#[derive(Debug)]
pub struct LogoutTokenReceived<'a> {
    /// Which issuer.
    pub issuer: &'a IssuerId,
    /// What became of it.
    pub outcome: TokenOutcome,
}

impl LogoutTokenReceived<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let Self { issuer, outcome } = self;
        let (outcome, why) = outcome.words();
        info!(%issuer, outcome, why, "a logout token was received");
        counter!(names::LOGOUT_TOKENS_RECEIVED, "outcome" => outcome, "why" => why).increment(1);
    }
}

/// What was learnt of something shown as an access token. A closed set: it labels a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// A JWT of its issuer's, verified.
    Verified,
    /// Opaque, and active as its provider says.
    Told,
    /// Opaque, and not active as its provider says.
    Inactive,
    /// Opaque, and there is nobody to ask.
    Unknown,
    /// Not a good one; why, by a word of a closed set.
    Refused(&'static str),
    /// The provider's keys, or its word, could not be had.
    Away,
}

/// An access token was read that is not known by its digest.
#[derive(Debug)]
pub struct AccessTokenRead<'a> {
    /// Whose.
    pub issuer: &'a IssuerId,
    /// What was learnt.
    pub outcome: ReadOutcome,
}

impl AccessTokenRead<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let (outcome, why) = match self.outcome {
            ReadOutcome::Verified => ("verified", ""),
            ReadOutcome::Told => ("told", ""),
            ReadOutcome::Inactive => ("inactive", ""),
            ReadOutcome::Unknown => ("unknown", ""),
            ReadOutcome::Refused(why) => ("refused", why),
            ReadOutcome::Away => ("away", ""),
        };
        debug!(issuer = %self.issuer, outcome, why, "an access token was read");
        counter!(names::ACCESS_TOKENS_READ, "outcome" => outcome, "why" => why).increment(1);
    }
}

/// What a gateway was told about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// It may pass.
    Passed,
    /// It may pass, although nobody knows whether its token was revoked.
    PassedUnseen,
    /// It carries no token.
    NoToken,
    /// Its token is not good; why, by a word of a closed set.
    Refused(&'static str),
    /// Its token does not have the scopes.
    Scope,
    /// Nothing could be said.
    Unavailable,
    /// There is no such profile, or the gateway is not one of its.
    Unknown,
}

/// A gateway asked about a request.
#[derive(Debug)]
pub struct RequestChecked<'a> {
    /// By which profile; none when there is no such.
    pub profile: Option<&'a str>,
    /// What it was told.
    pub outcome: CheckOutcome,
}

impl RequestChecked<'_> {
    /// Tells it. The names of profiles are those of the configuration: there are few, and they stay.
    pub fn emit(&self) {
        let Self { profile, outcome } = self;
        let (outcome, why) = match outcome {
            CheckOutcome::Passed => ("passed", ""),
            CheckOutcome::PassedUnseen => ("passed_unseen", ""),
            CheckOutcome::NoToken => ("no_token", ""),
            CheckOutcome::Refused(why) => ("refused", *why),
            CheckOutcome::Scope => ("scope", ""),
            CheckOutcome::Unavailable => ("unavailable", ""),
            CheckOutcome::Unknown => ("unknown", ""),
        };
        let profile = profile.unwrap_or_default().to_owned();
        debug!(profile, outcome, why, "a gateway asked about a request");
        counter!(names::REQUESTS_CHECKED, "profile" => profile, "outcome" => outcome, "why" => why).increment(1);
    }
}

/// Something was noticed about a token.
#[derive(Debug)]
pub struct TokenEventSeen<'a> {
    /// At which issuer.
    pub issuer: &'a IssuerId,
    /// What.
    pub kind: TokenEventKind,
}

impl TokenEventSeen<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let Self { issuer, kind } = self;
        match kind {
            TokenEventKind::Reuse => warn!(%issuer, %kind, "a replaced refresh token was used again"),
            TokenEventKind::UseAfterLogout
            | TokenEventKind::RotationOutOfOrder
            | TokenEventKind::ForeignClient
            | TokenEventKind::UnknownToken
            | TokenEventKind::OverLimit => info!(%issuer, %kind, "something was noticed about a token"),
        }
        counter!(names::TOKEN_EVENTS, "kind" => kind.as_str()).increment(1);
    }
}

/// A delivery came to its end.
#[derive(Debug)]
pub struct DeliverySettled<'a> {
    /// Which.
    pub delivery: &'a DeliveryId,
    /// The logout it belongs to.
    pub event: &'a EventId,
    /// Whom it was for.
    pub client_id: &'a ClientId,
    /// How it ended.
    pub state: DeliveryState,
    /// Why so.
    pub reason: SettledReason,
    /// How many attempts it took.
    pub attempts: u32,
    /// From its commit to now.
    pub age: Duration,
}

impl DeliverySettled<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let Self { delivery, event, client_id, state, reason, attempts, age } = self;
        let age_ms = millis(*age);
        match state {
            DeliveryState::Rejected | DeliveryState::Expired => {
                warn!(%delivery, %event, %client_id, %state, %reason, attempts, age_ms, "a delivery was given up");
            }
            DeliveryState::Pending
            | DeliveryState::Delivered
            | DeliveryState::Superseded
            | DeliveryState::Cancelled
            | DeliveryState::Unreachable => {
                info!(%delivery, %event, %client_id, %state, %reason, attempts, age_ms, "a delivery was settled");
            }
        }
        counter!(names::DELIVERIES_SETTLED, "state" => state.as_str(), "reason" => reason.as_str()).increment(1);
        histogram!(names::SETTLED_AGE, "state" => state.as_str()).record(*age);
    }
}

/// A relying party was asked once.
#[derive(Debug)]
pub struct AttemptMade<'a> {
    /// For which delivery.
    pub delivery: &'a DeliveryId,
    /// Who was asked.
    pub client_id: &'a ClientId,
    /// Counts from 1 within the delivery.
    pub number: u32,
    /// What came of it.
    pub class: OutcomeClass,
    /// How long it took.
    pub duration: Duration,
    /// From the delivery's commit to now.
    pub age: Duration,
    /// It may have been heard, and is made again.
    pub repeated: bool,
}

impl AttemptMade<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let Self { delivery, client_id, number, class, duration, age, repeated } = self;
        if *repeated {
            counter!(names::ATTEMPTS_REPEATED).increment(1);
        }
        debug!(%delivery, %client_id, number, %class, duration_ms = millis(*duration), "an attempt was made");
        counter!(names::ATTEMPTS, "class" => class.as_str()).increment(1);
        histogram!(names::ATTEMPT_DURATION, "class" => class.as_str()).record(*duration);
        if *number == 1 {
            histogram!(names::FIRST_ATTEMPT_AGE).record(*age);
        }
    }
}

/// An outcome came after its lease was over: somebody else settles that delivery.
#[derive(Debug)]
pub struct LeaseLost<'a> {
    /// Which delivery.
    pub delivery: &'a DeliveryId,
}

impl LeaseLost<'_> {
    /// Tells it.
    pub fn emit(&self) {
        warn!(delivery = %self.delivery, "an outcome came after its lease was over");
        counter!(names::LEASES_LOST).increment(1);
    }
}

/// Deliveries were claimed whose earlier claim had run out: its holder died, or was too slow.
#[derive(Debug)]
pub struct LeasesReclaimed {
    /// How many.
    pub count: u64,
}

impl LeasesReclaimed {
    /// Tells it.
    pub fn emit(&self) {
        if self.count > 0 {
            info!(count = self.count, "deliveries were claimed again whose lease had run out");
            counter!(names::LEASES_RECLAIMED).increment(self.count);
        }
    }
}

/// A page of a work was done.
#[derive(Debug)]
pub struct WorkAdvanced<'a> {
    /// Which.
    pub work: &'a WorkId,
    /// What it does.
    pub kind: &'static str,
    /// How many sessions and participations the page ended.
    pub ended: u64,
    /// Nothing is left to do.
    pub done: bool,
}

impl WorkAdvanced<'_> {
    /// Tells it, and the last page aloud: pages come by the hundred.
    pub fn emit(&self) {
        let Self { work, kind, ended, done } = self;
        if *done {
            info!(%work, kind, "a work is done");
        } else {
            debug!(%work, kind, ended, "a page of a work was done");
        }
        counter!(names::SESSIONS_ENDED).increment(*ended);
        counter!(names::WORK_PAGES, "kind" => *kind).increment(1);
    }
}

/// A receiver is away: nothing but probes goes to it.
#[derive(Debug)]
pub struct LaneOpened<'a> {
    /// Whose lane, or which host.
    pub lane: &'a str,
}

impl LaneOpened<'_> {
    /// Tells it.
    pub fn emit(&self) {
        warn!(lane = self.lane, "a lane was opened: its receiver is away, and is probed");
        counter!(names::LANES_OPENED).increment(1);
    }
}

/// A receiver is back.
#[derive(Debug)]
pub struct LaneClosed<'a> {
    /// Whose lane, or which host.
    pub lane: &'a str,
}

impl LaneClosed<'_> {
    /// Tells it.
    pub fn emit(&self) {
        info!(lane = self.lane, "a lane was closed: its receiver is back");
        counter!(names::LANES_CLOSED).increment(1);
    }
}

/// A receiver has been failing for a day, or says that it is gone. It is still probed.
#[derive(Debug)]
pub struct LaneParked<'a> {
    /// Whose lane.
    pub lane: &'a str,
}

impl LaneParked<'_> {
    /// Tells it.
    pub fn emit(&self) {
        error!(lane = self.lane, "a lane was parked: somebody must look at its receiver");
        counter!(names::LANES_PARKED).increment(1);
    }
}

/// Logouts are about to expire undelivered, or did.
#[derive(Debug)]
pub struct HorizonNear<'a> {
    /// Whose lane.
    pub lane: &'a str,
    /// How much of the horizon of its oldest pending delivery has passed, in percent: one of a few thresholds.
    pub percent: u8,
    /// Whether the lane is parked.
    pub parked: bool,
}

impl HorizonNear<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let Self { lane, percent, parked } = self;
        error!(lane, percent, parked, "the oldest delivery of a lane nears its horizon");
        counter!(names::HORIZONS_NEAR, "percent" => percent.to_string()).increment(1);
    }
}

/// How many lanes and hosts are not simply well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LanesCounted {
    /// Those that are away.
    pub open: u32,
    /// Those that are parked.
    pub parked: u32,
    /// Those that somebody paused.
    pub paused: u32,
}

impl LanesCounted {
    /// Sets the gauges.
    pub fn emit(&self) {
        for (state, count) in [("open", self.open), ("parked", self.parked), ("paused", self.paused)] {
            gauge!(names::LANES, "state" => state).set(f64::from(count));
        }
    }
}

/// What may be wrong with keys and with where they are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyTrouble {
    /// The provider does not publish a key of ours that it should.
    NotPublished,
    /// The provider has ceased to publish a key that signs.
    Left,
    /// A key of the provider's has the name of one of ours.
    NameTaken,
    /// The provider's keys do not fit into the set we publish.
    LeftOut,
    /// The provider's address leads back here.
    Loop,
    /// The provider's keys cannot be read.
    Away,
}

impl KeyTrouble {
    /// Every one.
    pub const ALL: [Self; 6] = [Self::NotPublished, Self::Left, Self::NameTaken, Self::LeftOut, Self::Loop, Self::Away];

    /// What is wrong, for whoever must look at it.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NotPublished => "the provider does not publish a key that it should",
            Self::Left => "the provider has ceased to publish a key that signs",
            Self::NameTaken => "a key of the provider's has the name of one of ours",
            Self::LeftOut => "the provider's keys do not fit into the set that is published here",
            Self::Loop => "the address of the provider's keys leads back here",
            Self::Away => "the provider's keys cannot be read",
        }
    }

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotPublished => "not_published",
            Self::Left => "left",
            Self::NameTaken => "name_taken",
            Self::LeftOut => "left_out",
            Self::Loop => "loop",
            Self::Away => "away",
        }
    }
}

/// Somebody must look at an issuer's keys, or at where they are published.
#[derive(Debug)]
pub struct KeyAlarm<'a> {
    /// Whose keys.
    pub issuer: &'a IssuerId,
    /// What is wrong.
    pub trouble: KeyTrouble,
    /// Which key, or what the provider answered.
    pub about: &'a str,
}

impl KeyAlarm<'_> {
    /// Tells it, each time it is found to be so.
    pub fn emit(&self) {
        let Self { issuer, trouble, about } = self;
        error!(%issuer, trouble = trouble.as_str(), about, "relying parties may refuse what is signed here: keys are not where they should be");
        counter!(names::KEY_ALARMS, "trouble" => trouble.as_str()).increment(1);
    }
}

/// A signing key passed a station of its life.
#[derive(Debug)]
pub struct KeyPassed<'a> {
    /// Whose key.
    pub issuer: &'a IssuerId,
    /// Its name.
    pub kid: &'a str,
    /// Where it stands now.
    pub state: &'static str,
}

impl KeyPassed<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let Self { issuer, kid, state } = self;
        info!(%issuer, kid, state, "a signing key passed a station of its life");
    }
}

/// A group of writes reached the disk.
#[derive(Debug)]
pub struct GroupCommitted {
    /// How many writes.
    pub size: usize,
    /// From the first statement to the end of the commit.
    pub duration: Duration,
}

impl GroupCommitted {
    /// Counts it. There is no log line: commits come by the thousand.
    pub fn emit(&self) {
        histogram!(names::COMMIT_GROUP_SIZE).record(f64::from(u32::try_from(self.size).unwrap_or(u32::MAX)));
        histogram!(names::COMMIT_DURATION).record(self.duration);
    }
}

/// The methods requests are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
    /// Any other.
    Other,
}

impl Method {
    /// The method of this name; a caller cannot invent a label.
    pub fn named(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Other => "other",
        }
    }
}

/// A request was answered.
#[derive(Debug)]
pub struct RequestServed<'a> {
    /// The template of its route, never its values; none when there is no such route.
    pub route: Option<&'a str>,
    /// Its method.
    pub method: Method,
    /// What it was answered.
    pub status: u16,
    /// How long it took.
    pub duration: Duration,
}

impl RequestServed<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let route = self.route.unwrap_or("(none)");
        debug!(route, method = self.method.as_str(), status = self.status, duration_ms = millis(self.duration), "a request was answered");
        let labels = [("route", route.to_owned()), ("method", self.method.as_str().to_owned()), ("status", self.status.to_string())];
        counter!(names::REQUESTS, &labels).increment(1);
        histogram!(names::REQUEST_DURATION, "route" => route.to_owned()).record(self.duration);
    }
}

/// A request was answered with a 5xx that is our fault.
#[derive(Debug)]
pub struct RequestFailed<'a> {
    /// All that the caller was told.
    pub instance: &'a str,
    /// The template of its route.
    pub route: Option<&'a str>,
    /// The error with all its sources.
    pub error: &'a (dyn std::error::Error + 'static),
}

impl RequestFailed<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let route = self.route.unwrap_or("(none)");
        error!(instance = self.instance, route, error = %Chain(self.error), "a request failed by our fault");
        counter!(names::REQUESTS_FAILED).increment(1);
    }
}

/// What kind of trouble the database makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// It does not answer, or asks to come again.
    Unavailable,
    /// It holds what cannot be.
    Corrupt,
}

impl StoreFault {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::Unavailable, Self::Corrupt];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Corrupt => "corrupt",
        }
    }
}

/// The database failed us.
#[derive(Debug)]
pub struct StoreFailed<'a> {
    /// What was asked of it, such as `claim_due`.
    pub operation: &'static str,
    /// How it failed.
    pub fault: StoreFault,
    /// The error with all its sources.
    pub error: &'a (dyn std::error::Error + 'static),
}

impl StoreFailed<'_> {
    /// Tells it.
    pub fn emit(&self) {
        error!(operation = self.operation, kind = self.fault.as_str(), error = %Chain(self.error), "the database failed");
        counter!(names::STORE_FAILURES, "operation" => self.operation, "kind" => self.fault.as_str()).increment(1);
    }
}

/// Why a caller could not be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No token was presented.
    Missing,
    /// What was presented is no token.
    Malformed,
    /// No such token.
    Unknown,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
    /// It was replaced, and the overlap is over.
    Replaced,
    /// No such client, another secret, or shown in another way than was registered.
    Client,
    /// An assertion that proves nothing, and why.
    Assertion(&'static str),
    /// Whatever it was: there were too many failures before it.
    Throttled,
}

impl Refusal {
    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Replaced => "replaced",
            Self::Client => "client",
            Self::Assertion(_) => "assertion",
            Self::Throttled => "throttled",
        }
    }

    /// What is wrong with it, where that is more.
    const fn detail(self) -> Option<&'static str> {
        match self {
            Self::Assertion(why) => Some(why),
            Self::Missing
            | Self::Malformed
            | Self::Unknown
            | Self::Expired
            | Self::Revoked
            | Self::Replaced
            | Self::Client
            | Self::Throttled => None,
        }
    }
}

/// A caller could not be told.
#[derive(Debug)]
pub struct AuthenticationFailed {
    /// Why.
    pub why: Refusal,
    /// Where the request came from.
    pub remote: Option<IpAddr>,
}

impl AuthenticationFailed {
    /// Tells it.
    pub fn emit(&self) {
        let (why, detail) = (self.why.as_str(), self.why.detail());
        warn!(why, detail, remote = self.remote.map(tracing::field::display), "a caller could not be authenticated");
        counter!(names::AUTHENTICATION_FAILURES, "why" => self.why.as_str()).increment(1);
    }
}

/// What the configuration declares is registered.
#[derive(Clone, Copy, Debug)]
pub struct DeclarationsKept {
    /// How many issuers it declares.
    pub issuers: usize,
    /// How many clients.
    pub clients: usize,
    /// How many of them were not registered like that before.
    pub written: usize,
}

impl DeclarationsKept {
    /// Tells it.
    pub fn emit(&self) {
        let Self { issuers, clients, written } = self;
        info!(issuers, clients, written, "what the configuration declares is registered");
    }
}

/// Something is not declared any more, and goes on as it is.
#[derive(Clone, Copy, Debug)]
pub struct RegistrationReleased<'a> {
    /// The issuer, or its client's.
    pub issuer: &'a IssuerId,
    /// Which client; none for the issuer.
    pub client_id: Option<&'a ClientId>,
}

impl RegistrationReleased<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let client_id = self.client_id.map(tracing::field::display);
        warn!(issuer = %self.issuer, client_id, "the configuration does not declare it any more: it stays registered as it is, and the API may change it");
    }
}

/// The server began to serve.
#[derive(Debug)]
pub struct Started<'a> {
    /// Where.
    pub listen: SocketAddr,
    /// The database engine.
    pub engine: &'static str,
    /// The version the database says it has.
    pub database_version: &'a str,
    /// The settings a commit's durability hangs on.
    pub durability: &'a [(&'static str, String)],
}

impl Started<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let version = env!("CARGO_PKG_VERSION");
        info!(listen = %self.listen, engine = self.engine, database_version = self.database_version, version, "the server has started");
        let labels =
            [("version", version.to_owned()), ("engine", self.engine.to_owned()), ("database_version", self.database_version.to_owned())];
        gauge!(names::INFO, &labels).set(1.0);
        let [_, engine, database_version] = labels;
        let labels: Vec<_> = [engine, database_version].into_iter().chain(self.durability.iter().cloned()).collect();
        gauge!(names::DATABASE_INFO, &labels).set(1.0);
    }
}

/// A database was started that had been restored from a backup.
#[derive(Debug)]
pub struct GapOpened<'a> {
    /// At which issuer.
    pub issuer: &'a IssuerId,
    /// When the backup was taken.
    pub since: Timestamp,
    /// When what was restored was started.
    pub until: Timestamp,
}

impl GapOpened<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let Self { issuer, since, until } = self;
        warn!(
            %issuer, %since, %until,
            "the database was restored from a backup, and logouts may be missing: tokens from before are inactive until their sessions are reported \
             again, the provider lists what lives, or an operator closes the gap"
        );
    }
}

/// A database was started that had been restored from a backup, with what authenticates as it was then.
#[derive(Debug)]
pub struct CredentialsRestored {
    /// How many API tokens are good.
    pub api_tokens: u64,
}

impl CredentialsRestored {
    /// Tells it.
    pub fn emit(&self) {
        let Self { api_tokens } = self;
        warn!(
            api_tokens,
            "the database is as it was when it was copied: API tokens, client secrets and keys that were revoked or replaced since are good again, and which \
             cannot be known here: look at each and take away again what was taken away"
        );
    }
}

/// The gaps that are open were counted.
#[derive(Debug)]
pub struct GapsCounted {
    /// How many, at all issuers.
    pub open: u64,
}

impl GapsCounted {
    /// Sets the gauge.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; counts below 2^53 are exact")]
    pub fn emit(&self) {
        gauge!(names::GAPS_OPEN).set(self.open as f64);
    }
}

/// The server is at its end.
#[derive(Debug)]
pub enum Stopped {
    /// Everything in flight was finished.
    Finished,
    /// Something was dropped where it stood; the database has it.
    Forced,
}

impl Stopped {
    /// Tells it.
    pub fn emit(&self) {
        match self {
            Self::Finished => info!("the server has stopped"),
            Self::Forced => warn!("the server has stopped before everything in flight was finished; it goes on at the next start"),
        }
    }
}

/// What the database holds, looked at from time to time.
#[derive(Debug)]
pub struct Gauges {
    /// All that were ever written, by the account.
    pub enqueued: u64,
    /// Those of them that were forgotten, by the account.
    pub forgotten: u64,
    /// What is there, counted by state at the same instant.
    pub counts: Counts,
    /// The age of the oldest one that is pending.
    pub oldest_pending: Option<Duration>,
}

impl Gauges {
    /// How many are missing, or are there although nobody wrote them.
    pub fn unaccounted(&self) -> u64 {
        self.enqueued.abs_diff(self.counts.total() + self.forgotten)
    }

    /// Sets them all at once, and raises its voice when the sum of the states and of what was forgotten is not the whole.
    pub fn emit(&self) {
        names::together(|| self.set());
        if self.unaccounted() > 0 {
            let accounted = self.counts.total() + self.forgotten;
            error!(enqueued = self.enqueued, accounted, "deliveries are missing from the account");
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; counts below 2^53 are exact")]
    fn set(&self) {
        let Counts { pending, delivered, rejected, expired, superseded, cancelled, unreachable, adopted: _, late_joiners: _ } = self.counts;
        let states = [
            (DeliveryState::Pending, pending),
            (DeliveryState::Delivered, delivered),
            (DeliveryState::Rejected, rejected),
            (DeliveryState::Expired, expired),
            (DeliveryState::Superseded, superseded),
            (DeliveryState::Cancelled, cancelled),
            (DeliveryState::Unreachable, unreachable),
        ];
        for (state, count) in states {
            gauge!(names::DELIVERIES, "state" => state.as_str()).set(count as f64);
        }
        gauge!(names::ENQUEUED).set(self.enqueued as f64);
        gauge!(names::FORGOTTEN).set(self.forgotten as f64);
        gauge!(names::UNACCOUNTED).set(self.unaccounted() as f64);
        gauge!(names::OLDEST_PENDING).set(self.oldest_pending.unwrap_or_default().as_secs_f64());
    }
}

/// An error and all its sources on one line. Libraries often say a source in the error itself: it is not said again.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        for source in std::iter::successors(self.0.source(), |error| error.source()).map(ToString::to_string) {
            if !said.ends_with(&source) {
                write!(f, ": {source}")?;
                said = source;
            }
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The end of a registered certificate is near, or over.
#[derive(Debug)]
pub struct CertificateNear<'a> {
    /// Whose registration holds it; none for the listener's own, which the configuration names.
    pub holder: Option<&'a Holder>,
    /// What it is for.
    pub kind: CertificateKind,
    /// Which threshold was passed.
    pub near: &'static str,
    /// Whether it is over.
    pub over: bool,
    /// Its end.
    pub expires_at: Timestamp,
}

impl CertificateNear<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let Self { holder, kind, near, over, expires_at } = self;
        let issuer = holder.map(|holder| holder.issuer.as_str());
        let client_id = holder.and_then(|holder| holder.client_id.as_ref()).map(ClientId::as_str);
        if *over {
            error!(issuer, client_id, %kind, %expires_at, "a certificate has expired: renew it, or nobody is told and nobody calls");
        } else {
            warn!(issuer, client_id, %kind, %expires_at, within = near, "a certificate expires soon");
        }
        counter!(names::CERTIFICATES_NEAR, "kind" => kind.as_str(), "threshold" => *near).increment(1);
    }
}

/// All registered certificates of one kind were looked at.
#[derive(Debug)]
pub struct CertificatesSeen {
    /// Which kind.
    pub kind: CertificateKind,
    /// When the first of them expires, if there is one.
    pub first: Option<Timestamp>,
    /// When they were looked at.
    pub now: Timestamp,
}

impl CertificatesSeen {
    /// Sets the gauge; where there is none, its end is infinitely far.
    #[expect(clippy::cast_precision_loss, reason = "seconds fit a float for longer than the earth")]
    pub fn emit(&self) {
        let left = self.first.map_or(f64::INFINITY, |first| (first.millis() - self.now.millis()) as f64 / 1000.0);
        gauge!(names::CERTIFICATE_EXPIRES, "kind" => self.kind.as_str()).set(left);
    }
}

/// A head over the audit trail was signed. Whoever keeps this line can tell later whether the trail was cut.
#[derive(Debug)]
pub struct AuditHeadSigned<'a> {
    /// The number of the last record it covers.
    pub seq: u64,
    /// The digest that stands for all of them.
    pub chain: &'a str,
    /// The key that signed it.
    pub kid: &'a str,
    /// It, as a compact JWS: what `logoutd audit verify --head` takes.
    pub head: &'a str,
}

impl AuditHeadSigned<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let Self { seq, chain, kid, head } = self;
        info!(seq, chain, kid, head, "the audit trail has a new signed head");
    }
}

/// How the audit trail stands.
#[derive(Debug)]
pub struct AuditStanding {
    /// The number of the last record that a signed head covers.
    pub seq: u64,
    /// How old that head is, if there is one.
    pub age: Option<Duration>,
    /// Records that no head covers yet.
    pub unsealed: u64,
    /// For how long the oldest of them has waited.
    pub unsealed_for: Option<Duration>,
}

impl AuditStanding {
    /// Sets the gauges.
    #[expect(clippy::cast_precision_loss, reason = "records fit a float for longer than anybody counts")]
    pub fn emit(&self) {
        let Self { seq, age, unsealed, unsealed_for } = self;
        gauge!(names::AUDIT_HEAD_SEQ).set(*seq as f64);
        gauge!(names::AUDIT_HEAD_AGE).set(age.map_or(f64::INFINITY, |age| age.as_secs_f64()));
        gauge!(names::AUDIT_UNSEALED).set(*unsealed as f64);
        gauge!(names::AUDIT_UNSEALED_FOR).set(unsealed_for.map_or(0.0, |waited| waited.as_secs_f64()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::with_buckets;
    use super::*;

    /// What a recorder of its own has to tell after `emit`: the one of the process is shared with every other test.
    fn measured(emit: impl FnOnce()) -> String {
        let recorder = with_buckets().build_recorder();
        metrics::with_local_recorder(&recorder, emit);
        recorder.handle().render()
    }

    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line} in {text}");
        }
    }

    #[test]
    fn neither_a_client_nor_a_delivery_is_ever_a_label() {
        let delivery = DeliveryId::parse("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        let event = EventId::parse("01ARZ3NDEKTSV4RRFFQ69G5FAW").unwrap();
        let client_id = ClientId::parse("a-client-by-name").unwrap();
        let (state, reason) = (DeliveryState::Delivered, SettledReason::Accepted);
        let age = Duration::from_millis(300);
        let text = measured(|| {
            let class = OutcomeClass::Delivered;
            AttemptMade { delivery: &delivery, client_id: &client_id, number: 1, class, duration: age, age, repeated: false }.emit();
            AttemptMade { delivery: &delivery, client_id: &client_id, number: 2, class, duration: age, age, repeated: false }.emit();
            DeliverySettled { delivery: &delivery, event: &event, client_id: &client_id, state, reason, attempts: 1, age }.emit();
            LeaseLost { delivery: &delivery }.emit();
        });
        assert!(!text.contains("a-client-by-name") && !text.contains("01ARZ3"), "{text}");
        assert_lines(
            &text,
            &[
                "logoutd_deliveries_settled_total{state=\"delivered\",reason=\"accepted\"} 1",
                "logoutd_delivery_settled_age_seconds_bucket{state=\"delivered\",le=\"0.25\"} 0",
                "logoutd_delivery_settled_age_seconds_bucket{state=\"delivered\",le=\"0.5\"} 1",
                "logoutd_attempts_total{class=\"delivered\"} 2",
                "logoutd_delivery_first_attempt_age_seconds_count 1",
                "logoutd_leases_lost_total 1",
            ],
        );
    }

    #[test]
    fn a_logout_is_counted_with_what_it_ended() {
        let event = EventId::parse("01ARZ3NDEKTSV4RRFFQ69G5FAW").unwrap();
        let issuer = IssuerId::parse("main").unwrap();
        let (reason, class) = (Reason::TokenReuse, Class::Compromise);
        let text = measured(|| LogoutCommitted { event: &event, issuer: &issuer, reason, class, sessions: 2, deliveries: 5 }.emit());
        assert_lines(&text, &["logoutd_logouts_total{reason=\"token_reuse\",class=\"compromise\"} 1", "logoutd_sessions_ended_total 2"]);
    }

    #[test]
    fn what_is_in_no_state_shows_as_unaccounted() {
        let counts = Counts { pending: 2, delivered: 3, adopted: 9, late_joiners: 1, ..Counts::default() };
        let text = measured(|| Gauges { enqueued: 8, forgotten: 2, counts, oldest_pending: Some(Duration::from_secs(90)) }.emit());
        let lines =
            ["logoutd_deliveries_unaccounted 1", "logoutd_deliveries{state=\"pending\"} 2", "logoutd_delivery_oldest_pending_seconds 90"];
        assert_lines(&text, &lines);
    }

    #[test]
    fn an_invented_method_makes_no_new_label() {
        let duration = Duration::from_millis(3);
        let text = measured(|| RequestServed { route: None, method: Method::named("BREW"), status: 405, duration }.emit());
        assert_lines(&text, &["logoutd_requests_total{route=\"(none)\",method=\"other\",status=\"405\"} 1"]);
    }

    #[test]
    fn an_error_is_told_with_all_its_sources() {
        #[derive(Debug, thiserror::Error)]
        #[error("the commit failed")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(Chain(&Outer(std::io::Error::other("disk full"))).to_string(), "the commit failed: disk full");
    }
}
