//! Audit records: who did what, from where, to what, why.

use super::key::words;
use super::{AuditId, EventId, IssuerId, Timestamp};

words! {
    /// What was done.
    Act, "an act" {
        /// A logout was posted.
        LogoutPosted = "logout_posted",
        /// A logout was undone.
        LogoutUndone = "logout_undone",
        /// Sessions ended by their age.
        SessionsExpired = "sessions_expired",
        /// A provider listed what lives, and the other sessions ended.
        SessionsReconciled = "sessions_reconciled",
        /// An issuer was registered.
        IssuerCreated = "issuer_created",
        /// An issuer changed.
        IssuerChanged = "issuer_changed",
        /// An issuer was deleted.
        IssuerDeleted = "issuer_deleted",
        /// An issuer is not declared any more, and whoever administers may change it.
        IssuerReleased = "issuer_released",
        /// A client was registered or replaced.
        ClientPut = "client_put",
        /// A client was deleted.
        ClientDeleted = "client_deleted",
        /// A client is not declared any more, and whoever administers may change it.
        ClientReleased = "client_released",
        /// Deliveries to a client were paused.
        ClientPaused = "client_paused",
        /// Deliveries to a client were resumed.
        ClientResumed = "client_resumed",
        /// A client was suspended.
        ClientSuspended = "client_suspended",
        /// A client's suspension was lifted.
        ClientUnsuspended = "client_unsuspended",
        /// A client was sent a token about nobody.
        ClientTested = "client_tested",
        /// A token or a session was put on the denylist.
        TokenDenied = "token_denied",
        /// An entry of the denylist was removed.
        DenialLifted = "denial_lifted",
        /// A cut-off was ordered.
        CutOffOrdered = "cut_off_ordered",
        /// An ordered cut-off was removed.
        CutOffLifted = "cut_off_lifted",
        /// A gap was opened: what happened in it is not known.
        GapOpened = "gap_opened",
        /// A gap was closed.
        GapClosed = "gap_closed",
        /// The secret of a subject was changed.
        SubjectSecretBumped = "subject_secret_bumped",
        /// A delivery was opened again.
        DeliveryRetried = "delivery_retried",
        /// A pending delivery was cancelled.
        DeliveryCancelled = "delivery_cancelled",
        /// Settled deliveries were opened again.
        DeliveriesReplayed = "deliveries_replayed",
        /// A token was revoked, and its session goes on.
        TokenRevoked = "token_revoked",
        /// A signing key was made.
        KeyCreated = "key_created",
        /// A signing key began to sign, and its predecessor ceased.
        KeyActivated = "key_activated",
        /// A signing key was withdrawn.
        KeyWithdrawn = "key_withdrawn",
        /// A signing key was replaced at once.
        KeyReplaced = "key_replaced",
        /// A signing key was imported.
        KeyImported = "key_imported",
        /// A key of a provider's is neither published nor believed any more.
        ProviderKeyDropped = "provider_key_dropped",
        /// Secrets were sealed with a new key.
        SecretsResealed = "secrets_resealed",
        /// Something was noticed about a token.
        TokenEvent = "token_event",
        /// An API token was minted.
        ApiTokenCreated = "api_token_created",
        /// An API token was given another secret.
        ApiTokenRotated = "api_token_rotated",
        /// An API token was revoked.
        ApiTokenRevoked = "api_token_revoked",
    }
}

/// One audit record, written in the transaction of what it records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its id.
    pub id: AuditId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub act: Act,
    /// The identity of the credential used.
    pub caller: String,
    /// Its role.
    pub role: String,
    /// On whose behalf.
    pub actor: Option<String>,
    /// From where.
    pub remote: Option<String>,
    /// At which issuer.
    pub issuer: Option<IssuerId>,
    /// The logout it was.
    pub event: Option<EventId>,
    /// What it was done to and why, as a JSON object.
    pub detail: String,
}
