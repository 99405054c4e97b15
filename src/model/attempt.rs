//! One attempt at a delivery: what was sent, what came back.

use std::time::Duration;

use super::key::words;
use super::{AttemptId, Timestamp};

/// What came back from one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer.
    Answered {
        /// The HTTP status.
        status: u16,
        /// `Retry-After`, read at the door: a delay.
        retry_after: Option<Duration>,
    },
    /// No answer.
    Failed(Failure),
}

words! {
    /// Why there was no answer.
    Failure, "a failure" {
        /// The name did not resolve.
        Dns = "dns",
        /// No connection.
        Connect = "connect",
        /// The TLS handshake failed.
        Tls = "tls",
        /// The time was up.
        Timeout = "timeout",
        /// The connection broke after the request may have been read: perhaps it was handled.
        Broken = "broken",
        /// The answer was not HTTP, or larger than its head may be.
        Garbled = "garbled",
        /// The URL or the address is not one we may reach; nothing was sent.
        Blocked = "blocked",
        /// We could not sign, read our database or reach our resolver or proxy.
        Ours = "ours",
    }
}

words! {
    /// What an outcome means for what happens next.
    OutcomeClass, "an outcome class" {
        /// Done.
        Delivered = "delivered",
        /// Done, by a 2xx the specification does not name.
        DeliveredOddly = "delivered_oddly",
        /// 400.
        Refused = "refused",
        /// 401, 403, 404 and their like.
        ConfigFault = "config_fault",
        /// 3xx.
        Redirected = "redirected",
        /// 410.
        Gone = "gone",
        /// Worth trying again.
        Recoverable = "recoverable",
        /// Not allowed to be tried.
        Blocked = "blocked",
        /// Our fault.
        Ours = "ours",
    }
}

/// The record of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Its id.
    pub id: AttemptId,
    /// Counts from 1 within its delivery.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// What the outcome means.
    pub class: OutcomeClass,
    /// The HTTP status, if one came.
    pub status: Option<u16>,
    /// The failure, if none came.
    pub failure: Option<Failure>,
    /// The address actually connected to.
    pub remote_addr: Option<String>,
    /// The `jti` of the token sent.
    pub jti: Option<String>,
    /// The key it was signed with.
    pub kid: Option<String>,
    /// Up to 1 KiB of a 4xx body, tokens removed.
    pub excerpt: Option<String>,
    /// The lease was lost before the outcome could be recorded: somebody else settles.
    pub lease_lost: bool,
}

/// Whose token an attempt sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentToken {
    /// The provider's own, unchanged.
    Theirs,
    /// One of ours; or none, since none could be signed.
    Ours,
}

/// What is known of an earlier attempt at a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastAttempt {
    /// Whose token it sent.
    pub token: SentToken,
    /// The status it was answered with.
    pub status: Option<u16>,
    /// Why there was no answer.
    pub failure: Option<Failure>,
}
