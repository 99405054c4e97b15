//! A lane as it is dealt to and as it changes.

use super::Timestamp;
use super::delivery::{Class, Lane};

/// Up to so many deliveries of one lane, class and turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deal {
    /// Which lane.
    pub lane: Lane,
    /// Which class.
    pub class: Class,
    /// First attempts, or those that were attempted before.
    pub retry: bool,
    /// How many at most.
    pub slots: u16,
}

/// What is to become of a lane or of the host behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneChange {
    /// Nothing but probes goes out from now on. It may have failed for a while already.
    Open {
        /// Whether that is to be remembered.
        failing: bool,
    },
    /// It is failing, though it may answer.
    Failing,
    /// All is well again.
    Close,
    /// It answers again, though it takes nothing.
    Alive,
    /// It is parked at once.
    Park,
}

/// What is remembered of a lane or of a host that is not simply well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneRecord {
    /// Which lane or host.
    pub lane: Lane,
    /// Since when it is paused.
    pub paused_at: Option<Timestamp>,
    /// Since when no attempt succeeds.
    pub failing_since: Option<Timestamp>,
    /// Since when it is parked.
    pub parked_at: Option<Timestamp>,
    /// While it is open: when the next probe goes out.
    pub probe_at: Option<Timestamp>,
    /// How many probes went out since it opened.
    pub probes: u32,
    /// When it closed last.
    pub closed_at: Option<Timestamp>,
}
