//! Audit records: who did what, from where, to what, why.

use std::collections::BTreeMap;

use super::key::{SigningAlg, words};
use super::{AuditId, Digest, EventId, IssuerId, Timestamp};

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
        /// A later login took the name of a session that a gap hid, and that one ended.
        SessionDisplaced = "session_displaced",
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
        /// It was tried out whether alarms arrive.
        AlarmTried = "alarm_tried",
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
        /// A word that nobody here writes: somebody wrote beside the server.
        Unknown = "unknown",
        /// An API token was minted.
        ApiTokenCreated = "api_token_created",
        /// An API token was given another secret.
        ApiTokenRotated = "api_token_rotated",
        /// An API token was revoked.
        ApiTokenRevoked = "api_token_revoked",
        /// The key that signs the trail's heads was made.
        AuditKeyCreated = "audit_key_created",
        /// The key that signs the trail's heads is being replaced.
        AuditKeyRotated = "audit_key_rotated",
        /// A subject was erased.
        SubjectErased = "subject_erased",
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

/// Values by where they stand in a record, as a JSON pointer (RFC 6901).
pub type Places = BTreeMap<String, String>;

/// The end of the chain: how many records are linked, and what the last link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// The number of the last record; 0 before the first.
    pub seq: u64,
    /// The digest that stands for all of them.
    pub chain: Digest,
}

/// What stands beside a record from the transaction on that writes it: by what it is digested though values of it go, and whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// What each value that may have to go is mixed with before it is digested.
    pub salts: Places,
    /// The digests of values that were erased.
    pub erased: Places,
    /// The keyed digest over the record's digest; none where nobody with the sealing key wrote it.
    pub mac: Option<Digest>,
}

/// A record's place in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number, in the order of sealing.
    pub seq: u64,
    /// The digest of the record.
    pub digest: Digest,
    /// The digest of all records up to this one.
    pub chain: Digest,
}

/// A record as the trail holds it; one that is not sealed yet has no link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrailRecord {
    /// It.
    pub record: AuditRecord,
    /// What proves it.
    pub proof: Proof,
    /// Its place in the chain.
    pub link: Option<Link>,
}

/// The signed end of the chain, as it stood at an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it vouches for.
    pub tip: Tip,
    /// When it was signed.
    pub at: Timestamp,
    /// The key that signed it.
    pub kid: String,
    /// It, as a compact JWS.
    pub jws: String,
}

const HOUR_MS: i64 = 3_600_000;

/// When and by which key a head was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadMark<'k> {
    /// When.
    pub at: Timestamp,
    /// By which key.
    pub kid: &'k str,
}

impl HeadMark<'_> {
    /// Whether a head may go once it is old, because the next one stays: it covers the same and more, and is of the same hour and key. Whoever signs the next
    /// one goes by the same rule, so that every head names the one that is before it when the others are gone.
    pub fn goes_before(&self, next: &HeadMark<'_>) -> bool {
        let hour = |mark: &HeadMark<'_>| mark.at.millis().div_euclid(HOUR_MS);
        self.kid == next.kid && hour(self) == hour(next)
    }
}

/// What is no longer kept, behind a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last record that is gone.
    pub tip: Tip,
    /// When it was signed.
    pub at: Timestamp,
    /// It, as a compact JWS.
    pub jws: String,
}

words! {
    /// Where a key that signs the trail's heads stands in its life.
    AuditKeyState, "a key state" {
        /// It waits until a head of its predecessor has named it.
        Next = "next",
        /// It signs.
        Active = "active",
        /// It has ceased to sign; its private half is destroyed, and its public half is published as long as there is a trail.
        Retired = "retired",
    }
}

/// A key that signs heads and receipts, as it is stored.
#[derive(Clone, Debug)]
pub struct AuditKey {
    /// Its name: the RFC 7638 thumbprint, so that whoever names it vouches for it.
    pub kid: String,
    /// What it signs with.
    pub alg: SigningAlg,
    /// Where it stands in its life.
    pub state: AuditKeyState,
    /// The public half as a JWK in JSON.
    pub public_jwk: String,
    /// The private half, sealed; empty once it is retired.
    pub sealed: Vec<u8>,
    /// The keyed digest of its name; none where nobody with the sealing key made it.
    pub mac: Option<Digest>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ceased to sign.
    pub retired_at: Option<Timestamp>,
}

/// How the trail stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrailState {
    /// The latest head; none before the first record is sealed.
    pub head: Option<Head>,
    /// What is no longer kept.
    pub checkpoint: Option<Checkpoint>,
    /// Records that are committed and not sealed yet.
    pub unsealed: u64,
    /// When the oldest of them was written.
    pub unsealed_since: Option<Timestamp>,
}
