//! The decisions: what an answer means, when to try again, what a token may still say, which lane may claim, whether a token is active.
//!
//! Owns every rule that can be stated as values in, values out. Never reads a clock, draws a random number, opens a socket or sees a row: the caller
//! fetches first, then asks, then acts. Whoever needs a decision finds it here and nowhere else, so that each has one set of properties to keep.

pub mod activity;
pub mod address;
pub mod alarm;
pub mod certificate;
pub mod effects;
pub mod expiry;
pub mod forwarded;
pub mod joining;
pub mod keys;
pub mod lane;
pub mod late;
pub mod lifetime;
pub mod outcome;
pub mod provider;
pub mod relay;
pub mod retry;
pub mod revocation;
pub mod rotation;
pub mod settle;
pub mod skew;
pub mod throttle;
pub mod time;
