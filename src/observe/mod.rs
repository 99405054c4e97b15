//! The watchtower: a name for everything that happens.
//!
//! Owns the events, each one struct whose `emit()` writes one log line and moves its metrics, and where both go. Never decides anything and never tells a
//! subject, a session id, a token, a secret or a body. A client id is a field of a log line and never a metric label, since labels are kept for ever.

mod doors;
mod events;
pub mod logging;
pub mod metrics;

pub use doors::{ConnectionRefused, HandshakeFailed, Limited, ListenerCertificate, ListenerInPlain, OriginUnsaid, RequestLimited};
pub use events::{DeclarationsKept, RegistrationReleased};
pub use events::{
    AccessTokenRead, AttemptMade, AuditHeadSigned, AuditStanding, AuthenticationFailed, CertificateNear, CertificatesSeen, CheckOutcome, DeliverySettled, GapOpened, GapsCounted, Gauges, GroupCommitted, HorizonNear, KeyAlarm, KeyPassed, KeyTrouble, LaneClosed, LaneOpened, LaneParked, LanesCounted, LeaseLost, LogoutCommitted, LogoutTokenReceived, Method, ReadOutcome, Refusal, RequestChecked, RequestFailed, RequestServed, Started, Stopped, StoreFailed, StoreFault, TokenEventSeen, TokenOutcome, WorkAdvanced,
};
