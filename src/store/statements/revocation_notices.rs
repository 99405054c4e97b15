//! Words to the provider about refresh tokens that were revoked here: for each one a delivery, in the transaction that revokes it.
//!
//! Only the current token of a family that is kept sealed can be said, and only where the provider has an endpoint for it. The token goes when its
//! delivery settles; until then it is kept as long as the delivery may last, whatever else it was kept for.

use std::collections::BTreeMap;

use super::ending::{self, Ended, NewEvent, Scene, Secrets, Terms};
use super::joins::class_number;
use super::{Builder, Conn, duration_ms, expiry, push_list, push_text};
use crate::model::access::{Caller, Role};
use crate::model::client::DeliverySettings;
use crate::model::delivery::{Class, DeliveryKind, Lane, Leased};
use crate::model::effects::{Offline, ProviderWord};
use crate::model::event::TARGET_REVOCATION;
use crate::model::trigger::Reason;
use crate::model::{DeliveryId, EventId, IssuerId, Timestamp};
use crate::store::{Context, RevocationFacts, StoreError};

/// Tells the provider of the tokens of these grants, unless it revoked them itself, or is not to hear of what ended.
pub(super) async fn tell(conn: &mut Conn, context: &Context, act: Scene<'_>, grants: &[String]) -> Result<(), StoreError> {
    for chunk in grants.chunks(super::ROWS_MAX) {
        let tokens = match act.terms.provider {
            ProviderWord::Due => sayable(conn, act.issuer, chunk).await?,
            ProviderWord::Kept | ProviderWord::Known => Vec::new(),
        };
        if tokens.is_empty() {
            unseal(conn, chunk).await?;
        }
        insert(conn, context, act, &tokens).await?;
    }
    Ok(())
}

/// Tells the provider of the token of a grant that was revoked without a logout, under an event that says just that; none where there is nothing to
/// tell it, or where it is the one who revoked.
pub(super) async fn alone(
    conn: &mut Conn,
    context: &Context,
    issuer: &IssuerId,
    grant: String,
    caller: &Caller,
    now: Timestamp,
) -> Result<(), StoreError> {
    let tokens = match caller.role {
        Role::Provider => Vec::new(),
        Role::Gateway | Role::Client | Role::Operator | Role::Auditor | Role::Admin => {
            sayable(conn, issuer, std::slice::from_ref(&grant)).await?
        }
    };
    if tokens.is_empty() {
        return unseal(conn, &[grant]).await;
    }
    let event: EventId = context.entropy.id(now);
    let terms = Terms {
        begun_before: None,
        offline: Offline::Spared,
        class: Class::Interactive,
        compromise: false,
        provider: ProviderWord::Due,
        secrets: Secrets::Kept,
    };
    let act = Scene { issuer, event: &event, at: now, now, terms, owned: &[] };
    let new = NewEvent { reason: Reason::Other.as_str(), ..expiry::new_event(TARGET_REVOCATION, &caller.identity) };
    ending::insert_event(conn, context, act, new).await?;
    ending::count_on_receipt(conn, &event, Ended { tokens: tokens.len() as u64, ..Ended::default() }).await?;
    insert(conn, context, act, &tokens).await
}

/// What nobody has to be told of need not be kept to be shown.
async fn unseal(conn: &mut Conn, grants: &[String]) -> Result<(), StoreError> {
    if grants.is_empty() {
        return Ok(());
    }
    let mut sql = Builder::new("UPDATE refresh_tokens SET sealed = NULL, sealed_until = NULL WHERE sealed IS NOT NULL AND grant_id IN ");
    push_list(&mut sql, grants.iter().map(String::as_str));
    sql.build().execute(conn).await?;
    Ok(())
}

/// A token's row, and its client.
type Sayable = (String, String);

/// The current tokens of these grants that can be said, where the provider has an endpoint.
async fn sayable(conn: &mut Conn, issuer: &IssuerId, grants: &[String]) -> Result<Vec<Sayable>, StoreError> {
    if grants.is_empty() {
        return Ok(Vec::new());
    }
    let mut sql = Builder::new(
        "SELECT t.id, g.client_id FROM refresh_tokens AS t JOIN grants AS g ON g.id = t.grant_id
          WHERE t.sealed IS NOT NULL AND t.superseded_at IS NULL AND t.grant_id IN ",
    );
    push_list(&mut sql, grants.iter().map(String::as_str));
    sql.push(" AND EXISTS (SELECT 1 FROM issuers AS i WHERE i.revocation IS NOT NULL AND i.id = ").push_bind(issuer.as_str().to_owned());
    sql.push(")");
    Ok(sql.build_query_as().fetch_all(conn).await?)
}

async fn insert(conn: &mut Conn, context: &Context, act: Scene<'_>, tokens: &[Sayable]) -> Result<(), StoreError> {
    if tokens.is_empty() {
        return Ok(());
    }
    let (now, patience) = (act.now, DeliverySettings::DEFAULT.horizon);
    let horizon_at = now.plus(patience);
    let mut sql = Builder::new(
        "INSERT INTO deliveries (id, issuer_id, event_id, kind, client_id, lane, participant_id, session_id, state, class, compromise, \
         late_joiner, attempts, recoverable, refused, config_fault, redirected, blocked, ours, due_at, horizon_at, horizon_ms, occurred_at, \
         created_at) ",
    );
    sql.push_values(tokens, |mut row, (token, client)| {
        row.push_bind(context.entropy.id::<DeliveryId>(now).as_str().to_owned())
            .push_bind(act.issuer.as_str().to_owned())
            .push_bind(act.event.as_str().to_owned())
            .push_bind(DeliveryKind::Revocation.as_str())
            .push_bind(client.clone())
            .push_bind(Lane::of_provider(act.issuer).as_str().to_owned())
            // Nobody took part: the token stands in the place, and no session, so that no later logout of one adopts it.
            .push_bind(token.clone())
            .push("'', 'pending'")
            .push_bind(class_number(act.terms.class))
            .push_bind(act.terms.compromise)
            .push("FALSE, 0, 0, 0, 0, 0, 0, 0")
            .push_bind(now.millis())
            .push_bind(horizon_at.millis())
            .push_bind(duration_ms(patience))
            .push_bind(act.at.millis())
            .push_bind(now.millis());
    });
    // The same duty may already be written by a run that was repeated.
    sql.push(" ON CONFLICT (event_id, kind, participant_id) DO NOTHING");
    let written = sql.build().execute(&mut *conn).await?.rows_affected();
    super::account::enqueued(conn, context, now, written).await?;
    keep_until(conn, tokens, horizon_at).await
}

async fn keep_until(conn: &mut Conn, tokens: &[Sayable], until: Timestamp) -> Result<(), StoreError> {
    let mut sql = Builder::new("UPDATE refresh_tokens SET sealed_until = ");
    sql.push_bind(until.millis()).push(" WHERE (sealed_until IS NULL OR sealed_until < ").push_bind(until.millis()).push(") AND id IN ");
    push_list(&mut sql, tokens.iter().map(|(token, _)| token.as_str()));
    sql.build().execute(conn).await?;
    Ok(())
}

/// Drops the tokens of those among these deliveries that are settled: nothing has to be said any more.
pub(super) async fn drop_tokens<'a>(conn: &mut Conn, deliveries: impl Iterator<Item = &'a str>) -> Result<(), StoreError> {
    let deliveries: Vec<&str> = deliveries.collect();
    for chunk in deliveries.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new(
            "UPDATE refresh_tokens SET sealed = NULL, sealed_until = NULL
              WHERE id IN (SELECT d.participant_id FROM deliveries AS d WHERE d.kind = 'revocation' AND d.state <> 'pending' AND d.id IN ",
        );
        push_list(&mut sql, chunk.iter().copied());
        push_text(&mut sql, ")");
        sql.build().execute(&mut *conn).await?;
    }
    Ok(())
}

/// What is known of the token each of these deliveries is about, by the delivery.
pub(super) async fn facts(conn: &mut Conn, leased: &[Leased]) -> Result<BTreeMap<String, RevocationFacts>, StoreError> {
    let mut found = BTreeMap::new();
    let mut documents = BTreeMap::new();
    for one in leased.iter().filter(|one| one.kind == DeliveryKind::Revocation) {
        if !documents.contains_key(&one.issuer) {
            documents.insert(one.issuer.clone(), super::providers::document(conn, &one.issuer).await?);
        }
        let token: Option<(String, Option<String>)> = sqlx::query_as("SELECT name, sealed FROM refresh_tokens WHERE id = $1")
            .bind(one.participant.as_str())
            .fetch_optional(&mut *conn)
            .await?;
        let token = token.and_then(|(name, sealed)| Some((name, sealed?)));
        let document = documents.get(&one.issuer).cloned().flatten();
        found.insert(one.id.to_string(), RevocationFacts { token, document });
    }
    Ok(found)
}

/// The look at what can be said, as planners see it.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    let mut sql = Builder::new("SELECT id FROM refresh_tokens WHERE sealed IS NOT NULL AND superseded_at IS NULL AND grant_id IN ");
    push_list(&mut sql, ["a", "b"]);
    vec![("tokens that can be said", sql)]
}
