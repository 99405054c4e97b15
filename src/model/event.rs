//! An event: a committed trigger; on the API a *logout*. Its receipt says what became of it.

use super::delivery::{DeliveryState, DeliveryView};
use super::effects::ProviderWord;
use super::key::words;
use super::trigger::Reason;
use super::{ClientId, EventId, IssuerId, Timestamp};

words! {
    /// Where a logout stands.
    EventState, "a state" {
        /// Its sessions are still being ended, page by page; their tokens are inactive already.
        Expanding = "expanding",
        /// Somebody has not answered yet.
        Delivering = "delivering",
        /// Nobody is waited for.
        Settled = "settled",
    }
}

/// Deliveries of a logout, counted by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not settled.
    pub pending: u64,
    /// Confirmed.
    pub delivered: u64,
    /// Refused for good.
    pub rejected: u64,
    /// Given up at the horizon.
    pub expired: u64,
    /// Overtaken by a newer login.
    pub superseded: u64,
    /// Without a reason any more.
    pub cancelled: u64,
    /// Never possible.
    pub unreachable: u64,
    /// Open deliveries of earlier logouts that this one waits for; not in the total.
    pub adopted: u64,
    /// Deliveries for participants reported after the logout; in the total.
    pub late_joiners: u64,
}

impl Counts {
    /// The sum of the seven states.
    pub const fn total(&self) -> u64 {
        self.pending + self.delivered + self.rejected + self.expired + self.superseded + self.cancelled + self.unreachable
    }
}

words! {
    /// Whether the provider knows that its sessions ended here.
    ProviderTold, "a standing of the provider" {
        /// It was told.
        Told = "told",
        /// It has not answered yet.
        Pending = "pending",
        /// Nobody told it: who still has its cookie can sign in again without a password.
        NotTold = "not_told",
        /// It could not be told, or it refused.
        GaveUp = "gave_up",
    }
}

/// What became of the words to the provider that a logout wrote or adopted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProviderCounts {
    /// Not settled.
    pub pending: u64,
    /// Confirmed, or overtaken by a newer login that took the session's place.
    pub told: u64,
    /// Refused, expired or never possible.
    pub gave_up: u64,
    /// Without a reason any more.
    pub cancelled: u64,
}

impl ProviderCounts {
    /// Counts deliveries in one state.
    pub const fn add(&mut self, state: DeliveryState, number: u64) {
        let counter = match state {
            DeliveryState::Pending => &mut self.pending,
            DeliveryState::Delivered | DeliveryState::Superseded => &mut self.told,
            DeliveryState::Rejected | DeliveryState::Expired | DeliveryState::Unreachable => &mut self.gave_up,
            DeliveryState::Cancelled => &mut self.cancelled,
        };
        *counter += number;
    }

    /// These and those.
    #[must_use]
    pub const fn plus(self, more: Self) -> Self {
        Self {
            pending: self.pending + more.pending,
            told: self.told + more.told,
            gave_up: self.gave_up + more.gave_up,
            cancelled: self.cancelled + more.cancelled,
        }
    }

    /// The worst of it; none where there was nothing to tell: no session ended, or the provider ended them itself.
    pub const fn standing(&self, word: ProviderWord, sessions_ended: u64) -> Option<ProviderTold> {
        match (self, word, sessions_ended) {
            (Self { pending: 1.., .. }, ..) => Some(ProviderTold::Pending),
            (Self { gave_up: 1.., .. }, ..) => Some(ProviderTold::GaveUp),
            (Self { cancelled: 1.., .. }, ..) => Some(ProviderTold::NotTold),
            (Self { told: 1.., .. }, ..) => Some(ProviderTold::Told),
            (_, ProviderWord::Known, _) | (_, _, 0) => None,
            (_, ProviderWord::Due | ProviderWord::Kept, _) => Some(ProviderTold::NotTold),
        }
    }
}

/// What became of the refresh tokens that a provider is to revoke because they were revoked here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RevocationCounts {
    /// Not settled.
    pub pending: u64,
    /// The provider has revoked them, or did not know them.
    pub delivered: u64,
    /// Refused or expired, or cancelled before the provider was told.
    pub gave_up: u64,
}

impl RevocationCounts {
    /// Counts deliveries in one state.
    pub const fn add(&mut self, state: DeliveryState, number: u64) {
        let counter = match state {
            DeliveryState::Pending => &mut self.pending,
            DeliveryState::Delivered => &mut self.delivered,
            DeliveryState::Rejected
            | DeliveryState::Expired
            | DeliveryState::Superseded
            | DeliveryState::Cancelled
            | DeliveryState::Unreachable => &mut self.gave_up,
        };
        *counter += number;
    }
}

/// The receipt of a logout, or of its rehearsal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Which logout.
    pub id: EventId,
    /// Whose issuer.
    pub issuer: IssuerId,
    /// The target, as the JSON it is shown as.
    pub target: String,
    /// Why.
    pub reason: Reason,
    /// Why, in the caller's words.
    pub reason_detail: Option<String>,
    /// On whose behalf.
    pub actor: Option<String>,
    /// The caller's own name for what it belongs to.
    pub correlation_id: Option<String>,
    /// A note for people.
    pub note: Option<String>,
    /// Where it stands.
    pub state: EventState,
    /// Sessions it ended.
    pub sessions_ended: u64,
    /// Participations it ended while their sessions went on.
    pub participations_ended: u64,
    /// Refresh tokens that were good before it.
    pub refresh_tokens_revoked: u64,
    /// Whether the provider knows; none where there was nothing to tell it.
    pub provider: Option<ProviderTold>,
    /// The revocations it asks the provider for; none where there is none.
    pub revocations: Option<RevocationCounts>,
    /// Its deliveries to clients, counted.
    pub counts: Counts,
    /// The first of its deliveries, at most 100.
    pub deliveries: Vec<DeliveryView>,
    /// In the rehearsal of a logout of many, which has no deliveries to show: whom it would tell.
    pub would_tell: Vec<WouldTell>,
    /// When what it tells happened.
    pub occurred_at: Timestamp,
    /// When it was committed.
    pub created_at: Timestamp,
    /// When it was undone: nothing more is ended and nobody else is told.
    pub undone_at: Option<Timestamp>,
    /// When the last one answered.
    pub settled_at: Option<Timestamp>,
}

/// How often a logout of many would tell one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WouldTell {
    /// Whom.
    pub client_id: ClientId,
    /// Deliveries that would be made.
    pub pending: u64,
    /// Deliveries that cannot be made.
    pub unreachable: u64,
}

/// How many clients a rehearsal names.
pub const WOULD_TELL_MAX: usize = 1000;

/// What a receipt shows as the target of a page of sessions that ended by their age.
pub const TARGET_EXPIRED: &str = r#"{"expired":true}"#;
/// What a receipt shows as the target of sessions that a provider no longer lists.
pub const TARGET_RECONCILE: &str = r#"{"reconcile":true}"#;
/// What a receipt shows as the target of a logout whose record was no longer kept when somebody was still to be told of it.
pub const TARGET_FORGOTTEN: &str = r#"{"forgotten":true}"#;

/// What a receipt shows as the target of a refresh token that was revoked by itself, while its provider is told.
pub const TARGET_REVOCATION: &str = r#"{"revocation":true}"#;

/// What is kept of how a session ended that is known by a relayed token alone: it says nothing of the provider's session.
pub const TARGET_RELAYED: &str = r#"{"relayed":true}"#;

/// How many deliveries a receipt shows itself.
pub const RECEIPT_CLIENTS_MAX: usize = 100;
