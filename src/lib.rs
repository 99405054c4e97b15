//! logoutd, a coordinator for OpenID Connect back-channel logout: when a session must end, it ends everywhere, and one can prove it.
//!
//! A trigger enters by a door, is verified, becomes a plan, is committed once, and from then on a patient courier tells every relying party until it
//! has an answer or gives up aloud. This page is the map of the house; each room says at its head what it owns and what it never does.
//!
//! # The corridor
//!
//! ```text
//!  receive   a door: cap, parse into types that cannot be wrong, authenticate the caller
//!  plan      what the trigger reaches: effects, cut-off, class                         pure
//!  store     commit: end sessions, read participants by ending them, revoke grants,
//!            write event, deliveries, cut-off, idempotency key, audit record           one transaction
//!  reply     a receipt: 2xx means durably accepted
//!  deliver   lease → look for newer logins → sign a fresh token → post → settle        until answered or given up
//!  answer    the receipt, as it stands
//! ```
//!
//! * Commit before deliver. No HTTP inside a transaction; nothing is marked done before its outcome is in hand.
//! * There is no in-flight state and no rescuer: a delivery is due when it is pending and its time has come, and a claim moves that time to the end
//!   of its lease.
//! * The middle is pure. What an answer means, when to try again, what a late report means, whether a token is active: values in, values out.
//! * No hidden state. Doorbells, free slots and parsed keys in memory may be lost at any moment; the database alone is true.
//!
//! # The rooms
//!
//! | Room | What it is |
//! |---|---|
//! | [`model`] | the nouns, and which of their states are legal |
//! | [`token`] | logout tokens, signing keys, key sets, sealing |
//! | [`plan`] | every decision |
//! | [`store`] | the vault: every SQL statement, on SQLite and PostgreSQL |
//! | [`egress`] | the only way out, and its guard |
//! | [`observe`] | the names of everything that happens; metrics and logs |
//! | [`http`] | the façade: router, authentication, limits, problem documents |
//! | [`receive`] | the doors: reports, refresh tokens, logouts, and what is said about deliveries |
//! | [`answer`] | the windows: receipts, deliveries, sessions, introspection, metadata, keys, health |
//! | [`registry`] | the desk: issuers, clients and what holds them, keys, API tokens, the audit trail |
//! | [`deliver`] | the courier |
//! | [`upkeep`] | the chores that run by themselves |
//! | [`cli`] | the command line, a client of the HTTP API |
//! | [`config`], [`lifecycle`], [`bells`], [`seams`], [`app`] | settings; start and stop; who wakes whom; clock and chance; the wiring |
//!
//! Direction: `main → cli → app → {receive, answer, registry, deliver, upkeep} → http → {token, plan, store, egress, observe} → model`. Nothing points
//! upward; each foreign crate lives in one room. A test reads `src/` and fails when a room reaches outside its row.
//!
//! # Words, one meaning each
//!
//! *issuer* · *subject* (`sub`) · *session id* (`sid`) · *client*, a registered relying party · *participant*, a client in a session with the `sub` and
//! `sid` it saw · *grant*, a family of refresh tokens · *trigger*, a verified reason to act · *event*, a committed trigger, on the API a *logout* ·
//! *target*, what a logout names · *delivery*, the duty to tell one client one thing · *attempt*, *outcome* · *lease* · *lane*, the queue of one
//! client · *settled*: delivered, rejected, expired, superseded, cancelled or unreachable · *receipt* · *cut-off*, a not-before instant · *late
//! joiner*, a participant reported after its logout.

pub mod answer;
pub mod app;
pub mod bells;
pub mod cli;
pub mod config;
pub mod deliver;
pub mod egress;
pub mod http;
pub mod lifecycle;
pub mod model;
pub mod observe;
pub mod plan;
pub mod receive;
pub mod registry;
pub mod seams;
pub mod store;
pub mod token;
pub mod upkeep;
