//! Answers that more than one room gives: participants, deliveries and receipts as they are shown.

use serde::Serialize;
use utoipa::ToSchema;

use super::wire::{Text, text};
use crate::model::delivery::{DeliveryKind, DeliveryState, DeliveryView};
use crate::model::event::{Counts, Receipt, RevocationCounts, WouldTell};
use crate::model::session::{Life, ParticipantView};
use crate::store::StoreError;

/// A client in a session, with the names it saw.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ParticipantShape {
    client_id: text::ClientId,
    sid: Option<text::Sid>,
    sub: Option<text::Subject>,
    joined_at: text::Timestamp,
    state: text::Life,
    ended_at: Option<text::Timestamp>,
    /// The logout that ended it; null beside an `ended_at` when it left by itself.
    ended_by: Option<text::EventId>,
}

impl From<ParticipantView> for ParticipantShape {
    fn from(view: ParticipantView) -> Self {
        Self {
            client_id: Text(view.client_id),
            sid: view.sid.map(Text),
            sub: view.sub.map(Text),
            joined_at: Text(view.joined_at),
            state: Text(if view.ended_at.is_some() { Life::Ended } else { Life::Live }),
            ended_at: view.ended_at.map(Text),
            ended_by: view.ended_by.map(Text),
        }
    }
}

/// The duty to tell one client one thing, and where it stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeliveryShape {
    id: text::DeliveryId,
    /// The logout it belongs to.
    logout: text::EventId,
    kind: text::DeliveryKind,
    /// Whom; null where it is the provider.
    client_id: Option<text::ClientId>,
    /// The `sid` that client saw.
    sid: Option<text::Sid>,
    state: text::DeliveryState,
    /// Why it settled as it did.
    reason: Option<text::SettledReason>,
    class: text::Class,
    /// The participant was reported after the logout.
    late_joiner: bool,
    attempts: u32,
    created_at: text::Timestamp,
    /// When it is tried next, while pending.
    due_at: Option<text::Timestamp>,
    /// When it expires.
    horizon_at: text::Timestamp,
    delivered_at: Option<text::Timestamp>,
    settled_at: Option<text::Timestamp>,
    /// The latest instant at which an access token of this client may still work somewhere, since its gateways keep an answer or do not ask. Absent where
    /// nobody can say: register its access tokens, or say `tokens.access_token_max_s` and `tokens.gateway_cache_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    residual_until: Option<text::Timestamp>,
}

impl From<DeliveryView> for DeliveryShape {
    fn from(view: DeliveryView) -> Self {
        Self {
            delivered_at: delivered_at(&view),
            id: Text(view.id),
            logout: Text(view.event),
            kind: Text(view.kind),
            client_id: (view.kind != DeliveryKind::Provider).then_some(Text(view.client_id)),
            sid: view.sid.map(Text),
            state: Text(view.state),
            reason: view.reason.map(Text),
            class: Text(view.class),
            late_joiner: view.late_joiner,
            attempts: view.attempts,
            created_at: Text(view.created_at),
            due_at: view.due_at.map(Text),
            horizon_at: Text(view.horizon_at),
            settled_at: view.settled_at.map(Text),
            residual_until: view.residual_until.map(Text),
        }
    }
}

fn delivered_at(view: &DeliveryView) -> Option<text::Timestamp> {
    view.settled_at.filter(|_| view.state == DeliveryState::Delivered).map(Text)
}

/// What became of a logout.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReceiptShape {
    /// Absent in a rehearsal, which leaves nothing behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<text::EventId>,
    issuer: text::IssuerId,
    /// What was named. A refresh token is shown as its digest alone.
    #[schema(value_type = Object)]
    target: serde_json::Value,
    reason: text::Reason,
    reason_detail: Option<String>,
    actor: Option<String>,
    correlation_id: Option<String>,
    note: Option<String>,
    state: text::EventState,
    /// Sessions it ended.
    sessions_ended: u64,
    /// Participations it ended while their sessions went on.
    participations_ended: u64,
    refresh_tokens_revoked: u64,
    /// Whether the provider knows: the worst of what it is to be told of. `not_told`: it was not, and who still has its cookie can sign in again without a
    /// password. Null where there was nothing to tell: no session that is known here ended, or the provider ended them itself. Not counted in `deliveries`; the list of the
    /// logout's deliveries shows each with the kind `provider`.
    provider: Option<text::ProviderTold>,
    /// Refresh tokens the provider is to revoke as well, where the issuer has `revocation` and they are kept sealed. Not counted in `deliveries`; the
    /// list of the logout's deliveries shows each with the kind `revocation`. Absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    revocations: Option<RevocationsShape>,
    deliveries: CountsShape,
    /// The first 100; the deliveries of the logout list them all. Absent where receipts are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<Vec<LineShape>>,
    /// In the rehearsal of a logout of many, which names no deliveries: whom it would tell how often. The first 1,000 clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    would_tell: Option<Vec<WouldTellShape>>,
    occurred_at: text::Timestamp,
    created_at: text::Timestamp,
    /// When it was undone: nothing more is ended and nobody else is told.
    undone_at: Option<text::Timestamp>,
    /// Null while anybody is waited for.
    settled_at: Option<text::Timestamp>,
}

/// How often a logout of many would tell one client.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WouldTellShape {
    client_id: text::ClientId,
    /// Deliveries that would be made.
    pending: u64,
    /// Deliveries that cannot be made: the client has no URI, or needs a `sid` that nobody knows.
    unreachable: u64,
}

impl From<WouldTell> for WouldTellShape {
    fn from(WouldTell { client_id, pending, unreachable }: WouldTell) -> Self {
        Self { client_id: Text(client_id), pending, unreachable }
    }
}

/// Revocations at the provider, counted.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct RevocationsShape {
    pending: u64,
    delivered: u64,
    /// Refused, expired or cancelled: at the provider the token may still work.
    gave_up: u64,
}

impl From<RevocationCounts> for RevocationsShape {
    fn from(RevocationCounts { pending, delivered, gave_up }: RevocationCounts) -> Self {
        Self { pending, delivered, gave_up }
    }
}

/// Deliveries, counted. `total` is the sum of the seven states.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct CountsShape {
    total: u64,
    pending: u64,
    delivered: u64,
    rejected: u64,
    expired: u64,
    superseded: u64,
    cancelled: u64,
    unreachable: u64,
    /// Open deliveries of earlier logouts that this one waits for; not in the total.
    adopted: u64,
    /// Deliveries for participants reported after the logout; in the total.
    late_joiners: u64,
}

impl From<Counts> for CountsShape {
    fn from(counts: Counts) -> Self {
        Self {
            total: counts.total(),
            pending: counts.pending,
            delivered: counts.delivered,
            rejected: counts.rejected,
            expired: counts.expired,
            superseded: counts.superseded,
            cancelled: counts.cancelled,
            unreachable: counts.unreachable,
            adopted: counts.adopted,
            late_joiners: counts.late_joiners,
        }
    }
}

/// How one client stands in a receipt.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LineShape {
    client_id: text::ClientId,
    /// The `sid` that client saw.
    sid: Option<text::Sid>,
    state: text::DeliveryState,
    /// Why it settled as it did.
    reason: Option<text::SettledReason>,
    attempts: u32,
    delivered_at: Option<text::Timestamp>,
    /// The latest instant at which an access token of this client may still work somewhere: delivered means that the application accepted it, never more.
    /// Absent where nobody can say.
    #[serde(skip_serializing_if = "Option::is_none")]
    residual_until: Option<text::Timestamp>,
    /// The delivery, with its attempts. Absent in a rehearsal.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<text::DeliveryId>,
}

impl LineShape {
    fn of(view: DeliveryView, kept: Kept) -> Self {
        Self {
            delivered_at: delivered_at(&view),
            client_id: Text(view.client_id),
            sid: view.sid.map(Text),
            state: Text(view.state),
            reason: view.reason.map(Text),
            attempts: view.attempts,
            residual_until: view.residual_until.map(Text),
            delivery: (kept == Kept::Committed).then_some(Text(view.id)),
        }
    }
}

/// Whether what a receipt tells is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is.
    Committed,
    /// It was only rehearsed.
    Rehearsed,
}

impl ReceiptShape {
    /// A receipt with the first of its clients.
    pub fn whole(mut receipt: Receipt, kept: Kept) -> Result<Self, StoreError> {
        let clients = std::mem::take(&mut receipt.deliveries).into_iter().map(|view| LineShape::of(view, kept)).collect();
        let shape = Self::listed(receipt)?;
        Ok(Self { clients: Some(clients), id: shape.id.filter(|_| kept == Kept::Committed), ..shape })
    }

    /// A receipt in a list, which names no clients.
    pub fn listed(receipt: Receipt) -> Result<Self, StoreError> {
        let target = serde_json::from_str(&receipt.target).map_err(|_| StoreError::Corrupt { table: "events", column: "target" })?;
        Ok(Self {
            id: Some(Text(receipt.id)),
            issuer: Text(receipt.issuer),
            target,
            reason: Text(receipt.reason),
            reason_detail: receipt.reason_detail,
            actor: receipt.actor,
            correlation_id: receipt.correlation_id,
            note: receipt.note,
            state: Text(receipt.state),
            sessions_ended: receipt.sessions_ended,
            participations_ended: receipt.participations_ended,
            refresh_tokens_revoked: receipt.refresh_tokens_revoked,
            provider: receipt.provider.map(Text),
            revocations: receipt.revocations.map(Into::into),
            deliveries: receipt.counts.into(),
            clients: None,
            would_tell: Some(receipt.would_tell).filter(|told| !told.is_empty()).map(|told| told.into_iter().map(Into::into).collect()),
            occurred_at: Text(receipt.occurred_at),
            created_at: Text(receipt.created_at),
            undone_at: receipt.undone_at.map(Text),
            settled_at: receipt.settled_at.map(Text),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::delivery::Class;
    use crate::model::event::{EventState, ProviderTold};
    use crate::model::trigger::Reason;
    use crate::model::{ClientId, IssuerId, Sid, Timestamp};
    use crate::seams::Entropy;

    const T: Timestamp = Timestamp::from_seconds(1_790_000_000);

    fn receipt() -> Receipt {
        let entropy = Entropy::seeded(1);
        let view = |state, settled_at| DeliveryView {
            id: entropy.id(T),
            event: entropy.id(T),
            kind: DeliveryKind::LogoutToken,
            client_id: ClientId::parse("wiki").unwrap(),
            sid: Some(Sid::parse("s-1").unwrap()),
            state,
            reason: None,
            class: Class::Interactive,
            late_joiner: false,
            attempts: 1,
            created_at: T,
            due_at: None,
            horizon_at: T,
            settled_at,
            residual_until: None,
        };
        Receipt {
            id: entropy.id(T),
            issuer: IssuerId::parse("main").unwrap(),
            target: r#"{"sid":"s-1"}"#.to_owned(),
            reason: Reason::UserLogout,
            reason_detail: None,
            actor: Some("desk".to_owned()),
            correlation_id: None,
            note: None,
            state: EventState::Delivering,
            sessions_ended: 1,
            participations_ended: 0,
            refresh_tokens_revoked: 3,
            provider: Some(ProviderTold::NotTold),
            revocations: None,
            counts: Counts { pending: 1, delivered: 1, adopted: 4, late_joiners: 1, ..Counts::default() },
            would_tell: Vec::new(),
            deliveries: vec![view(DeliveryState::Delivered, Some(T)), view(DeliveryState::Rejected, Some(T))],
            occurred_at: T,
            created_at: T,
            undone_at: None,
            settled_at: None,
        }
    }

    #[test]
    fn a_receipt_has_the_shape_of_the_contract() {
        let id = receipt().id;
        let mut written = serde_json::to_value(ReceiptShape::whole(receipt(), Kept::Committed).unwrap()).unwrap();
        for line in written["clients"].as_array_mut().unwrap() {
            assert!(line.as_object_mut().unwrap().remove("delivery").is_some_and(|id| id.is_string()));
        }
        let expected = json!({
            "id": id.as_str(), "issuer": "main", "target": {"sid": "s-1"}, "reason": "user_logout", "reason_detail": null, "actor": "desk",
            "correlation_id": null, "note": null, "state": "delivering", "sessions_ended": 1, "participations_ended": 0,
            "refresh_tokens_revoked": 3, "provider": "not_told",
            "deliveries": {"total": 2, "pending": 1, "delivered": 1, "rejected": 0, "expired": 0, "superseded": 0, "cancelled": 0,
                "unreachable": 0, "adopted": 4, "late_joiners": 1},
            "clients": [
                {"client_id": "wiki", "sid": "s-1", "state": "delivered", "reason": null, "attempts": 1, "delivered_at": "2026-09-21T14:13:20.000Z"},
                {"client_id": "wiki", "sid": "s-1", "state": "rejected", "reason": null, "attempts": 1, "delivered_at": null},
            ],
            "occurred_at": "2026-09-21T14:13:20.000Z", "created_at": "2026-09-21T14:13:20.000Z",
            "undone_at": null, "settled_at": null,
        });
        assert_eq!(written, expected);
    }

    #[test]
    fn a_rehearsal_names_nothing_that_could_be_looked_up() {
        let written = serde_json::to_value(ReceiptShape::whole(receipt(), Kept::Rehearsed).unwrap()).unwrap();
        assert!(written.get("id").is_none() && written["clients"][0].get("delivery").is_none(), "{written}");
    }

    #[test]
    fn a_listed_receipt_names_no_clients() {
        let written = serde_json::to_value(ReceiptShape::listed(receipt()).unwrap()).unwrap();
        assert!(written.get("clients").is_none() && written["id"].is_string(), "{written}");
    }
}
