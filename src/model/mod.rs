//! The nouns: what logoutd talks about and which of their states are legal.
//!
//! Owns the vocabulary and nothing else. Values here are parsed once, at a door, and cannot be wrong afterwards. Never does IO, never asks for the
//! time, never serialises itself: wire shapes live beside their endpoints, rows beside their statements.

pub mod access;
pub mod alarm;
pub mod attempt;
pub mod audit;
pub mod certificate;
pub mod check;
pub mod client;
pub mod cut_off;
pub mod delivery;
pub mod denial;
pub mod effects;
pub mod event;
pub mod gap;
pub mod ids;
pub mod issuer;
pub mod key;
pub mod lane;
pub mod limits;
pub mod origin;
pub mod page;
pub mod provider_logout;
pub mod proxy;
pub mod report;
pub mod rotation;
pub mod schedule;
pub mod session;
pub mod shown;
pub mod time;
pub mod token;
pub mod trace;
pub mod trigger;

pub(crate) use ids::is_veiled;
pub use ids::{
    AccessTokenId, AlarmId, Alias, ApiTokenId, AttemptId, AuditId, ClientId, CutOffId, DeliveryId, DenialId, Digest, EntryId, EventId,
    GapId, GrantId, Id, Issuer, IssuerId, Jti, Malformed, ParticipantId, ProviderKey, RefreshTokenId, ReplicaId, RequestId, SessionId, Sid,
    Subject, WorkId,
};
pub use time::Timestamp;
