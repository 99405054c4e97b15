//! The watchtower: a name for everything that happens.
//!
//! Owns the events, each one struct whose `emit()` writes one log line and moves its metrics, the spans of traces, and where all of them go. It takes its
//! ids from the same chance as everybody, and reaches a collector only by the way out it is handed. Never decides anything and never tells a
//! subject, a session id, a token, a secret or a body. A client id is a field of a log line and never a metric label, since labels are kept for ever.

mod doors;
mod events;
pub mod logging;
pub mod metrics;
mod process;
pub mod traces;

pub use doors::{
    ConnectionRefused, HandshakeFailed, Limited, ListenerCertificate, ListenerInPlain, NobodyAdministers, OriginUnsaid, RequestLimited,
    SecretExposed,
};
pub use events::{
    AccessTokenRead, AlarmTold, AlarmsCounted, AttemptMade, AuditHeadSigned, AuditStanding, AuthenticationFailed, CertificateNear,
    CertificatesSeen, Chain, CheckOutcome, ClockCompared, ClockSeen, CredentialsRestored, DeliveriesPlanned, DeliveriesUnreachable,
    DeliverySettled, GapOpened, GapsCounted, Gauges, GroupCommitted, HorizonNear, KeyAlarm, KeyPassed, KeyTrouble, LaneClosed, LaneOpened,
    LaneParked, LanesCounted, LeaseLost, LeasesReclaimed, LogoutCommitted, LogoutTokenReceived, Method, PinnedSeen, ReadOutcome, Refusal,
    RequestChecked, RequestFailed, RequestServed, SpansDropped, Started, Stopped, StoreFailed, StoreFault, TokenEventSeen, TokenOutcome,
    WorkAdvanced,
};
pub use events::{DeclarationsKept, RegistrationReleased};
