//! An issuer: one provider whose sessions end here.

use std::time::Duration;

use super::{Issuer, IssuerId, Timestamp};
use crate::model::client::Network;
use crate::model::key::{SigningAlg, words};

words! {
    /// Which of its sessions end here by themselves.
    Expiry, "an expiry" {
        /// None: the provider tells of every end.
        None = "none",
        /// Those whose `expires_at` has passed.
        Absolute = "absolute",
        /// Those whose `expires_at` or `idle_expires_at` has passed: the provider reports every use.
        Authoritative = "authoritative",
    }
}

/// How long a session may live, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// When it ends at the latest.
    pub expires_at: Timestamp,
    /// When it ends unless it is used.
    pub idle_expires_at: Option<Timestamp>,
}

/// A registered issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerRecord {
    /// Its short id in paths.
    pub id: IssuerId,
    /// Its identifier to the letter: the `iss` of every token signed for it.
    pub issuer: Issuer,
    /// The algorithms that have a key.
    pub signing_algs: Vec<SigningAlg>,
    /// How long a session without `expires_at` is taken to live.
    pub session_max_age: Duration,
    /// Which sessions end here by themselves.
    pub expiry: Expiry,
    /// Exceptions from the address rule for its clients, inside the deployment's ceiling.
    pub network: Network,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts changes, for `ETag` and `If-Match`.
    pub version: i64,
}

/// How long a session without `expires_at` lives unless its issuer says otherwise.
pub const SESSION_MAX_AGE_DEFAULT: Duration = Duration::from_secs(30 * 24 * 3600);
