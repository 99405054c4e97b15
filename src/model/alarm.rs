//! What somebody must look at.

use std::time::Duration;

use super::key::words;
use super::{AlarmId, ClientId, IssuerId, Timestamp};

words! {
    /// What is wrong.
    AlarmKind, "a kind of alarm" {
        /// A receiver has failed for a day, or says that it is gone.
        LaneParked = "lane_parked",
        /// A receiver has been away for a while: nothing but probes goes to it.
        BreakerOpen = "breaker_open",
        /// The oldest delivery of a lane that is not well nears its horizon, or passed it.
        HorizonNear = "horizon_near",
        /// Deliveries to a client were given up, counted by the hour.
        DeliveriesGivenUp = "deliveries_given_up",
        /// A key is not where relying parties look for it.
        KeyTrouble = "key_trouble",
        /// A registered certificate expires soon, or has expired.
        CertificateNear = "certificate_near",
        /// Deliveries are missing from the account.
        ConservationLost = "conservation_lost",
        /// This server's clock is not that of others.
        ClockSkew = "clock_skew",
        /// The database failed for longer than a moment.
        StoreFailing = "store_failing",
        /// The audit trail does not verify.
        AuditBroken = "audit_broken",
    }
}

words! {
    /// How an alarm stands.
    AlarmState, "the state of an alarm" {
        /// It is so.
        Open = "open",
        /// It is over.
        Cleared = "cleared",
    }
}

impl AlarmKind {
    /// How long after it was raised last it counts as over; none where it is said that it is.
    pub const fn quiet_after(self) -> Option<Duration> {
        match self {
            Self::DeliveriesGivenUp | Self::KeyTrouble => Some(Duration::from_hours(1)),
            // Spoken of at 30, 7 and 1 days and past the end; whoever renewed it hears nothing more.
            Self::CertificateNear => Some(Duration::from_hours(24 * 24)),
            Self::AuditBroken => Some(Duration::from_hours(24)),
            // A process speaks for itself, and may be gone.
            Self::ClockSkew | Self::StoreFailing => Some(Duration::from_mins(10)),
            Self::LaneParked | Self::BreakerOpen | Self::HorizonNear | Self::ConservationLost => None,
        }
    }
}

/// Something that somebody must look at, as it is raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    /// What is wrong.
    pub kind: AlarmKind,
    /// At which issuer, where it is one's.
    pub issuer: Option<IssuerId>,
    /// With what: a `client_id`, a `kid`, a host. Never a person.
    pub about: String,
    /// In one sentence.
    pub message: String,
    /// How often it happened.
    pub count: u64,
}

impl Raised {
    /// It happened once.
    pub fn once(kind: AlarmKind, issuer: Option<&IssuerId>, about: &str, message: impl Into<String>) -> Self {
        Self { kind, issuer: issuer.cloned(), about: about.to_owned(), message: message.into(), count: 1 }
    }

    /// Whether it is the same matter as an open alarm.
    pub fn is(&self, alarm: &AlarmRecord) -> bool {
        self.kind == alarm.kind && self.issuer == alarm.issuer && self.about == alarm.about
    }
}

/// A delivery to a client was given up.
pub fn given_up(issuer: &IssuerId, client: &ClientId) -> Raised {
    let message = "logouts could not be delivered to it and were given up";
    Raised::once(AlarmKind::DeliveriesGivenUp, Some(issuer), client.as_str(), message)
}

/// What is about the same thing, as one.
pub fn joined(raised: Vec<Raised>) -> Vec<Raised> {
    let mut all: Vec<Raised> = Vec::new();
    for one in raised {
        match all.iter_mut().find(|known| (known.kind, &known.issuer, &known.about) == (one.kind, &one.issuer, &one.about)) {
            Some(known) => known.count += one.count,
            None => all.push(one),
        }
    }
    all
}

/// An alarm as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlarmRecord {
    /// Its id.
    pub id: AlarmId,
    /// What is wrong.
    pub kind: AlarmKind,
    /// At which issuer.
    pub issuer: Option<IssuerId>,
    /// With what.
    pub about: String,
    /// In one sentence.
    pub message: String,
    /// When it was raised first.
    pub first_at: Timestamp,
    /// When it was raised last.
    pub last_at: Timestamp,
    /// How often it happened.
    pub count: u64,
    /// When it was over.
    pub cleared_at: Option<Timestamp>,
    /// When somebody was told of it last.
    pub told_at: Option<Timestamp>,
    /// How often somebody was told of it.
    pub tellings: u32,
    /// How often telling it failed since.
    pub attempts: u32,
}
