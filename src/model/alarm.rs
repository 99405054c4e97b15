//! What somebody must look at.

use std::collections::{HashMap, HashSet};
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
        /// The audit trail does not verify, or somebody wrote to it beside the server.
        AuditBroken = "audit_broken",
        /// A gap has been open for a while: what was known before its end is inactive.
        GapOpen = "gap_open",
        /// Nothing is wrong: somebody tries out whether alarms arrive.
        Trial = "trial",
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
            // Soon enough that who tries it out sees that it is over, too.
            Self::Trial => Some(Duration::from_mins(1)),
            // A process speaks for itself, and may be gone.
            Self::ClockSkew | Self::StoreFailing => Some(Duration::from_mins(10)),
            Self::LaneParked | Self::BreakerOpen | Self::HorizonNear | Self::ConservationLost | Self::GapOpen => None,
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

    fn matter(&self) -> Matter<'_> {
        (self.kind, self.issuer.as_ref(), &self.about)
    }
}

/// What an alarm is about: of one kind about one thing, one is open.
type Matter<'a> = (AlarmKind, Option<&'a IssuerId>, &'a str);

/// How the alarms that are open differ from those that should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference<'a> {
    /// What is open, and over.
    pub over: Vec<&'a AlarmRecord>,
    /// What is to be raised: it is not open, or in other words.
    pub new: Vec<&'a Raised>,
}

impl<'a> Difference<'a> {
    /// Looks at each alarm once: there may be some for every client.
    pub fn of(open: &'a [AlarmRecord], wanted: &'a [Raised]) -> Self {
        let said: HashSet<Matter<'_>> = wanted.iter().map(Raised::matter).collect();
        let words: HashMap<Matter<'_>, &str> = open.iter().map(|alarm| (alarm.matter(), alarm.message.as_str())).collect();
        Self {
            over: open.iter().filter(|alarm| !said.contains(&alarm.matter())).collect(),
            new: wanted.iter().filter(|one| words.get(&one.matter()) != Some(&one.message.as_str())).collect(),
        }
    }
}

/// Somebody tries out whether alarms arrive. The instant makes each trial one of its own, told at once.
pub fn trial(now: Timestamp) -> Raised {
    Raised::once(AlarmKind::Trial, None, "(trial)", format!("nothing is wrong: somebody tried out at {now} whether alarms arrive"))
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

impl AlarmRecord {
    fn matter(&self) -> Matter<'_> {
        (self.kind, self.issuer.as_ref(), &self.about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(raised: &Raised) -> AlarmRecord {
        let at = Timestamp::from_seconds(1_800_000_000);
        let Raised { kind, issuer, about, message, count } = raised.clone();
        let (id, cleared_at, told_at) = (AlarmId::stored("a".to_owned()), None, None);
        AlarmRecord { id, kind, issuer, about, message, first_at: at, last_at: at, count, cleared_at, told_at, tellings: 0, attempts: 0 }
    }

    #[test]
    fn what_is_over_new_or_said_otherwise_is_told_from_what_stays() {
        let (main, far) = (IssuerId::parse("main").unwrap(), IssuerId::parse("far").unwrap());
        let raised = |kind, issuer, about, message: &str| Raised::once(kind, Some(issuer), about, message);
        let stays = raised(AlarmKind::LaneParked, &main, "wiki", "it is parked");
        let elsewhere = raised(AlarmKind::LaneParked, &far, "wiki", "it is parked");
        let (before, since) =
            (raised(AlarmKind::HorizonNear, &main, "wiki", "50 %"), raised(AlarmKind::HorizonNear, &main, "wiki", "75 %"));
        let (gone, new) =
            (raised(AlarmKind::LaneParked, &main, "shop", "it is parked"), raised(AlarmKind::BreakerOpen, &main, "wiki", "it is away"));
        let standing = [open(&stays), open(&before), open(&gone)];
        let wanted = [stays.clone(), elsewhere.clone(), since.clone(), new.clone()];
        let difference = Difference::of(&standing, &wanted);
        assert_eq!((difference.over, difference.new), (vec![&standing[2]], vec![&elsewhere, &since, &new]));
        assert_eq!(Difference::of(&standing[..1], &wanted[..1]), Difference::default());
    }

    #[test]
    fn as_many_as_there_are_clients_are_compared_at_once() {
        let all: Vec<Raised> =
            (0..50_000).map(|number| Raised::once(AlarmKind::LaneParked, None, &number.to_string(), "it is parked")).collect();
        let standing: Vec<AlarmRecord> = all.iter().rev().map(open).collect();
        assert_eq!(Difference::of(&standing, &all), Difference::default());
    }
}
