//! A provider's own logout tokens: taken once, with what they do, in one transaction.
//!
//! A token for one of the provider's clients ends that client's participation and no session. It is told by a delivery of its own, also where nobody
//! ever reported that client there: the participant is made, and ended, and where no session is known either one is made that ended with it, which
//! stands for nothing but that participation. A token about a subject alone is passed on once, since the relying party ends by it all that it has.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::commit::{self, Input, Over, ParticipationsOf, Resolved};
use super::ending::{self, Ended, NewEvent, Scene, Terms};
use super::joins::{self, Duty, ToTell};
use super::{Builder, Conn, corrupt, dialect, instant, number, push_equal, push_list, push_text, word};
use crate::model::attempt::{Failure, PastAttempt, SentToken};
use crate::model::delivery::{DeliveryKind, DeliveryState, Leased};
use crate::model::event::TARGET_RELAYED;
use crate::model::trigger::{Except, Target};
use crate::model::{ClientId, DeliveryId, EventId, IssuerId, ParticipantId, SessionId, Sid, Subject, Timestamp};
use crate::store::{
    Context, Ending, Mode, ReceivedToken, RelayedFacts, SealedToken, StoreError, TokenEffect, TokenOrder, TokenRefused, TokenTaken,
};

/// How long tokens about one session of the provider's are one logout, and how long after it was told a client is told nothing again.
const ONE_LOGOUT_MS: i64 = 60_000;

type Taken = Result<Ending<Result<TokenTaken, TokenRefused>>, StoreError>;

pub(in crate::store) async fn take(conn: &mut Conn, context: &Context, order: &TokenOrder) -> Taken {
    dialect::share_issuer(conn, &order.trigger.issuer).await?;
    let now = dialect::now(conn, &context.clock).await?;
    if let Some(known) = known_as(conn, order, now).await? {
        let same = known == order.received.digest.to_string();
        return Ok(Ending::Undo(if same { Ok(TokenTaken::Repeated) } else { Err(TokenRefused::JtiReused) }));
    }
    let event: EventId = context.entropy.id(now);
    match &order.effect {
        TokenEffect::Cascade { otherwise } => cascade(conn, context, order, (&event, now), otherwise.as_ref()).await,
        TokenEffect::Relay { sub, sid, theirs } => {
            let names = Names { client: &order.received.audience, sub: sub.as_ref(), sid: sid.as_ref() };
            relay(conn, context, order, (&event, now), names, theirs.as_ref()).await
        }
    }
}

/// Takes the token's `jti`, or says whose it is. A concurrent token with the same one waits here for the other's commit; one that nobody would take any
/// more has no claim on it.
async fn known_as(conn: &mut Conn, order: &TokenOrder, now: Timestamp) -> Result<Option<String>, StoreError> {
    let ReceivedToken { audience, jti, digest, taken_until } = &order.received;
    let taken = sqlx::query(
        "INSERT INTO received_tokens (issuer_id, audience, jti, digest, event_id, created_at, expires_at) VALUES ($1, $2, $3, $4, NULL, $5, $6)
         ON CONFLICT (issuer_id, audience, jti) DO UPDATE
            SET digest = excluded.digest, event_id = NULL, created_at = excluded.created_at, expires_at = excluded.expires_at
          WHERE received_tokens.expires_at < excluded.created_at",
    )
    .bind(order.trigger.issuer.as_str())
    .bind(audience.as_str())
    .bind(jti.as_str())
    .bind(digest.to_string())
    .bind(now.millis())
    .bind(taken_until.millis())
    .execute(&mut *conn)
    .await?;
    if taken.rows_affected() == 1 {
        return Ok(None);
    }
    let known = sqlx::query_scalar("SELECT digest FROM received_tokens WHERE issuer_id = $1 AND audience = $2 AND jti = $3")
        .bind(order.trigger.issuer.as_str())
        .bind(audience.as_str())
        .bind(jti.as_str())
        .fetch_one(conn)
        .await?;
    Ok(Some(known))
}

/// Remembers what the token did.
async fn note(conn: &mut Conn, order: &TokenOrder, event: &EventId) -> Result<(), StoreError> {
    sqlx::query("UPDATE received_tokens SET event_id = $4 WHERE issuer_id = $1 AND audience = $2 AND jti = $3")
        .bind(order.trigger.issuer.as_str())
        .bind(order.received.audience.as_str())
        .bind(order.received.jti.as_str())
        .bind(event.as_str())
        .execute(conn)
        .await?;
    Ok(())
}

async fn cascade(
    conn: &mut Conn,
    context: &Context,
    order: &TokenOrder,
    (event, now): (&EventId, Timestamp),
    otherwise: Option<&Subject>,
) -> Taken {
    let TokenOrder { trigger, reach, target_json, opening, .. } = order;
    let input: Input = (trigger.clone(), reach.clone(), target_json.clone(), Mode::Commit, *opening);
    match commit::conclude(conn, context, &input, (event, now), otherwise).await? {
        Ending::Keep(Ok(committed)) => {
            note(conn, order, event).await?;
            Ok(Ending::Keep(Ok(TokenTaken::Committed(committed.receipt))))
        }
        Ending::Undo(Ok(_)) => Err(StoreError::raced()),
        Ending::Keep(Err(refused)) | Ending::Undo(Err(refused)) => Ok(Ending::Undo(Err(refused.into()))),
    }
}

/// By what a client knows whom a token is about.
#[derive(Clone, Copy)]
struct Names<'a> {
    client: &'a ClientId,
    sub: Option<&'a Subject>,
    sid: Option<&'a Sid>,
}

async fn relay(
    conn: &mut Conn,
    context: &Context,
    order: &TokenOrder,
    (event, now): (&EventId, Timestamp),
    names: Names<'_>,
    theirs: Option<&SealedToken>,
) -> Taken {
    let TokenOrder { trigger, reach, target_json, .. } = order;
    let Some(of) = participations(&reach.target) else { return Err(corrupt("events", "target")) };
    let issuer = &trigger.issuer;
    let home = home(conn, issuer, names).await?;
    let target = Resolved::Participations(match (&home, names.sid) {
        // Nobody reported a name of that client's own for it: then it is the provider's.
        (Some(Home { by: FoundBy::Provider, .. }), Some(sid)) => ParticipationsOf::SessionAtClient(sid.clone(), names.client.clone()),
        _ => of,
    });
    let owned = commit::lock(conn, issuer, &target).await?;
    if self::home(conn, issuer, names).await? != home {
        return Err(StoreError::raced());
    }
    let home = home.map(|home| home.session);
    let joined = recent(conn, issuer, &target, home.as_ref(), now).await?;
    let at = trigger.occurred_at.unwrap_or(now);
    let act = Scene { issuer, event: joined.as_ref().unwrap_or(event), at, now, terms: Terms::of(reach), owned: &owned };
    let mut over = commit::end(conn, act, &target).await?;
    if over.told.is_empty() {
        if let Some(echo) = echoed(conn, issuer, names, now).await? {
            let told_by = match echo.state {
                DeliveryState::Pending => wait_for(conn, context, act, order, names, (&echo, joined.as_ref(), theirs)).await?,
                DeliveryState::Delivered
                | DeliveryState::Rejected
                | DeliveryState::Expired
                | DeliveryState::Superseded
                | DeliveryState::Cancelled
                | DeliveryState::Unreachable => echo.event,
            };
            note(conn, order, &told_by).await?;
            return Ok(Ending::Keep(Ok(TokenTaken::Echoed)));
        }
        over.told.push(make(conn, context, act, names, home).await?);
        over.participations = 1;
    }
    if let Some(sid) = names.sid {
        over.told.iter_mut().for_each(|told| told.sid = Some(sid.clone()));
    }
    teach(conn, act, names, &mut over).await?;
    if joined.is_none() {
        insert_event(conn, context, act, order, names).await?;
    }
    let tokens = ending::revoked(conn, context, act, commit::revocations(act, &target, &over)).await?;
    let ended = Ended { tokens, ..over.counted() };
    ending::count_on_receipt(conn, act.event, ended).await?;
    tell(conn, context, act, order, names, over.told, theirs).await?;
    if let Some(scope) = &reach.cut_off {
        commit::leave_cut_off(conn, context, act, scope.clone(), &Except::default(), None).await?;
    }
    super::registry::record(conn, context, &commit::audit_entry(trigger, target_json, act.event, ended)).await?;
    note(conn, order, act.event).await?;
    let receipt = super::events::receipt(conn, issuer, act.event).await?.ok_or_else(|| corrupt("events", "id"))?;
    Ok(Ending::Keep(Ok(if joined.is_some() { TokenTaken::Joined(receipt) } else { TokenTaken::Committed(receipt) })))
}

/// The participations a relayed token names.
fn participations(target: &Target) -> Option<ParticipationsOf> {
    match target {
        Target::ClientSid { client_id, client_sid } => Some(ParticipationsOf::ClientSid(client_id.clone(), client_sid.clone())),
        Target::ClientSub { client_id, client_sub } => Some(ParticipationsOf::ClientSub(client_id.clone(), client_sub.clone())),
        Target::Session(_)
        | Target::Subject(_)
        | Target::SubjectExcept { .. }
        | Target::Client(_)
        | Target::SubjectAtClient { .. }
        | Target::SessionAtClient { .. }
        | Target::Device(_)
        | Target::RefreshToken { .. }
        | Target::Reuse(_)
        | Target::Everyone => None,
    }
}

/// The session a token is about.
#[derive(PartialEq, Eq)]
struct Home {
    session: SessionId,
    by: FoundBy,
}

/// By whose names it was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FoundBy {
    Client,
    Provider,
}

/// The session a token is about as far as any is known: the one in which that client was seen under these names, else the one of that `sid`, else the
/// implicit one of that subject.
async fn home(conn: &mut Conn, issuer: &IssuerId, names: Names<'_>) -> Result<Option<Home>, StoreError> {
    for (mut sql, by) in homes(issuer, names).into_iter().zip([FoundBy::Client, FoundBy::Provider]) {
        if let Some(id) = sql.build_query_scalar::<String>().fetch_optional(&mut *conn).await? {
            return Ok(Some(Home { session: SessionId::stored(id), by }));
        }
    }
    Ok(None)
}

fn homes(issuer: &IssuerId, names: Names<'_>) -> [Builder; 2] {
    let mut of_client = Builder::new("SELECT session_id FROM participants WHERE issuer_id = ");
    of_client.push_bind(issuer.as_str().to_owned());
    push_equal(&mut of_client, "client_id", names.client.as_str());
    let mut named = Builder::new("SELECT id FROM sessions WHERE issuer_id = ");
    named.push_bind(issuer.as_str().to_owned());
    match (names.sid, names.sub) {
        (Some(sid), _) => {
            push_equal(&mut of_client, "sid", sid.as_str());
            push_equal(&mut named, "sid", sid.as_str());
        }
        (None, Some(sub)) => {
            push_equal(&mut of_client, "sub", sub.as_str());
            push_equal(&mut named, "sub", sub.as_str());
            push_text(&mut named, " AND sid IS NULL AND provider_key IS NULL");
        }
        (None, None) => {
            push_text(&mut of_client, " AND 1 = 0");
            push_text(&mut named, " AND 1 = 0");
        }
    }
    push_text(&mut of_client, " ORDER BY CASE WHEN ended_at IS NULL THEN 0 ELSE 1 END, created_at DESC, id DESC LIMIT 1");
    push_text(&mut named, " ORDER BY CASE WHEN ended_at IS NULL THEN 0 ELSE 1 END, created_at DESC, id DESC LIMIT 1");
    [of_client, named]
}

/// The logout that another token about the same session began not long ago: a provider tells each of its clients by a token of its own.
async fn recent(
    conn: &mut Conn,
    issuer: &IssuerId,
    target: &Resolved,
    home: Option<&SessionId>,
    now: Timestamp,
) -> Result<Option<EventId>, StoreError> {
    let found: Option<String> = recent_of(issuer, target, home, now).build_query_scalar().fetch_optional(conn).await?;
    Ok(found.map(EventId::stored))
}

fn recent_of(issuer: &IssuerId, target: &Resolved, home: Option<&SessionId>, now: Timestamp) -> Builder {
    let mut sql = Builder::new("SELECT event_id FROM deliveries WHERE kind = ");
    sql.push_bind(DeliveryKind::Relay.as_str()).push(" AND created_at > ").push_bind(now.millis() - ONE_LOGOUT_MS);
    sql.push(" AND session_id IN (SELECT id FROM sessions WHERE id = ");
    sql.push_bind(home.map_or("", SessionId::as_str).to_owned());
    if let Resolved::Participations(of) = target {
        sql.push(" UNION SELECT id FROM sessions WHERE id IN ");
        commit::push_session_ids(&mut sql, issuer, of);
    }
    sql.push(") AND event_id IN (SELECT e.id FROM events AS e WHERE e.id = deliveries.event_id AND e.undone_at IS NULL)");
    sql.push(" ORDER BY created_at DESC, id DESC LIMIT 1");
    sql
}

/// What tells that client the same already: a delivery that is open, or one it took a moment ago since when it was not signed in again. A delivery about
/// the subject alone is told by nothing less.
async fn echoed(conn: &mut Conn, issuer: &IssuerId, names: Names<'_>, now: Timestamp) -> Result<Option<Echo>, StoreError> {
    let found: Option<(String, String, String)> = echo_of(issuer, names, now).build_query_as().fetch_optional(conn).await?;
    let echo = |(id, event, state): (String, String, String)| {
        let state = word(DeliveryState::parse(&state), "deliveries", "state")?;
        Ok(Echo { delivery: DeliveryId::stored(id), event: EventId::stored(event), state })
    };
    found.map(echo).transpose()
}

/// A delivery that tells the same.
struct Echo {
    delivery: DeliveryId,
    event: EventId,
    state: DeliveryState,
}

/// The token is answered by a delivery that is still open: it is waited for, so that undoing the other logout does not leave this one untold, and goes on
/// with the later token, which is good for longer.
async fn wait_for(
    conn: &mut Conn,
    context: &Context,
    act: Scene<'_>,
    order: &TokenOrder,
    names: Names<'_>,
    (echo, joined, theirs): (&Echo, Option<&EventId>, Option<&SealedToken>),
) -> Result<EventId, StoreError> {
    if let Some(theirs) = theirs {
        keep_later(conn, &echo.delivery, names, theirs).await?;
    }
    if joined.is_none() {
        insert_event(conn, context, act, order, names).await?;
        let entry = commit::audit_entry(&order.trigger, &order.target_json, act.event, Ended::default());
        super::registry::record(conn, context, &entry).await?;
    }
    if *act.event != echo.event {
        sqlx::query("INSERT INTO adoptions (event_id, delivery_id) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(act.event.as_str())
            .bind(echo.delivery.as_str())
            .execute(conn)
            .await?;
    }
    Ok(act.event.clone())
}

/// Only where it says the same of the same.
async fn keep_later(conn: &mut Conn, delivery: &DeliveryId, names: Names<'_>, theirs: &SealedToken) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO relayed_tokens (delivery_id, sealed, expires_at)
         SELECT id, $2, $3 FROM deliveries
          WHERE id = $1 AND kind = 'relay' AND state = 'pending' AND coalesce(sid, '') = $4 AND coalesce(sub, '') = $5
         ON CONFLICT (delivery_id) DO UPDATE SET sealed = excluded.sealed, expires_at = excluded.expires_at
          WHERE relayed_tokens.expires_at < excluded.expires_at",
    )
    .bind(delivery.as_str())
    .bind(STANDARD.encode(&theirs.octets))
    .bind(theirs.fresh_until.millis())
    .bind(names.sid.map_or("", Sid::as_str))
    .bind(names.sub.map_or("", Subject::as_str))
    .execute(conn)
    .await?;
    Ok(())
}

fn echo_of(issuer: &IssuerId, names: Names<'_>, now: Timestamp) -> Builder {
    let mut sql = Builder::new("SELECT id, event_id, state FROM deliveries WHERE kind IN ");
    push_list(&mut sql, [DeliveryKind::LogoutToken, DeliveryKind::Relay].map(DeliveryKind::as_str));
    let same = |sql: &mut Builder| {
        sql.push("(SELECT id FROM participants WHERE issuer_id = ").push_bind(issuer.as_str().to_owned());
        push_equal(sql, "client_id", names.client.as_str());
        match (names.sid, names.sub) {
            (Some(sid), _) => push_equal(sql, "sid", sid.as_str()),
            (None, Some(sub)) => push_equal(sql, "sub", sub.as_str()),
            (None, None) => push_text(sql, " AND 1 = 0"),
        }
    };
    if names.sid.is_none() {
        push_text(&mut sql, " AND sid IS NULL");
    }
    sql.push(" AND participant_id IN ");
    same(&mut sql);
    sql.push(") AND (state = 'pending' OR (state = 'delivered' AND settled_at > ").push_bind(now.millis() - ONE_LOGOUT_MS);
    sql.push(" AND NOT EXISTS ");
    same(&mut sql);
    sql.push(" AND ended_at IS NULL)))");
    // What was undone goes out no more, but for what is on its way.
    sql.push(" AND event_id IN (SELECT e.id FROM events AS e WHERE e.id = deliveries.event_id AND e.undone_at IS NULL)");
    sql.push(" ORDER BY created_at DESC, id DESC LIMIT 1");
    sql
}

/// Makes the participant that nobody reported, as one that has ended, and a session for it where none is known.
async fn make(conn: &mut Conn, context: &Context, act: Scene<'_>, names: Names<'_>, home: Option<SessionId>) -> Result<ToTell, StoreError> {
    let session = match home {
        Some(session) => session,
        None => make_session(conn, context, act, names).await?,
    };
    let participant: ParticipantId = context.entropy.id(act.now);
    sqlx::query(
        "INSERT INTO participants (id, session_id, issuer_id, client_id, sid, sub, joined_at, created_at, ended_at, ended_by, epoch)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $7, $9, (SELECT epoch FROM issuers WHERE id = $3))",
    )
    .bind(participant.as_str())
    .bind(session.as_str())
    .bind(act.issuer.as_str())
    .bind(names.client.as_str())
    .bind(names.sid.map_or("", Sid::as_str))
    .bind(names.sub.map(Subject::as_str))
    .bind(act.at.millis())
    .bind(act.now.millis())
    .bind(act.event.as_str())
    .execute(conn)
    .await?;
    Ok(ToTell { participant, session, client_id: names.client.clone(), sid: names.sid.cloned(), sub: names.sub.cloned() })
}

/// What that client calls the person is its own affair where it has a `sid` to be found by; without one there is no other name.
async fn make_session(conn: &mut Conn, context: &Context, act: Scene<'_>, names: Names<'_>) -> Result<SessionId, StoreError> {
    let session: SessionId = context.entropy.id(act.now);
    sqlx::query(
        "INSERT INTO sessions (id, issuer_id, sid, sub, started_at, expires_at, created_at, ended_at, ended_by, ended_target, epoch, reported_at)
         VALUES ($1, $2, $3, $4, $5, $5, $6, $5, $7, $8, (SELECT epoch FROM issuers WHERE id = $2), $6)",
    )
    .bind(session.as_str())
    .bind(act.issuer.as_str())
    .bind(names.sid.map(Sid::as_str))
    .bind(names.sub.filter(|_| names.sid.is_none()).map(Subject::as_str))
    .bind(act.at.millis())
    .bind(act.now.millis())
    .bind(act.event.as_str())
    .bind(TARGET_RELAYED)
    .execute(conn)
    .await?;
    Ok(session)
}

/// The provider's own token says what that client really calls the person: here, and wherever the provider's name stood in for it.
async fn teach(conn: &mut Conn, act: Scene<'_>, names: Names<'_>, over: &mut Over) -> Result<(), StoreError> {
    let Some(sub) = names.sub else { return Ok(()) };
    for told in over.told.iter_mut().filter(|told| told.sub.as_ref() != Some(sub)) {
        sqlx::query("UPDATE participants SET sub = $2 WHERE id = $1")
            .bind(told.participant.as_str())
            .bind(sub.as_str())
            .execute(&mut *conn)
            .await?;
        let owner: Option<Option<String>> =
            sqlx::query_scalar("SELECT sub FROM sessions WHERE id = $1").bind(told.session.as_str()).fetch_optional(&mut *conn).await?;
        if let Some(owner) = owner.flatten() {
            taught(act.issuer, &Subject::stored(owner), names.client, sub).build().execute(&mut *conn).await?;
        }
        told.sub = Some(sub.clone());
    }
    Ok(())
}

/// `UPDATE participants …`: that client in all live sessions of a person, as far as it was registered with the provider's name for them.
fn taught(issuer: &IssuerId, owner: &Subject, client: &ClientId, sub: &Subject) -> Builder {
    let mut sql = Builder::new("UPDATE participants SET sub = ");
    sql.push_bind(sub.as_str().to_owned()).push(" WHERE ended_at IS NULL AND (sub IS NULL OR sub = ").push_bind(owner.as_str().to_owned());
    sql.push(") AND session_id IN (SELECT id FROM sessions WHERE issuer_id = ").push_bind(issuer.as_str().to_owned());
    push_equal(&mut sql, "sub", owner.as_str());
    sql.push(")");
    push_equal(&mut sql, "client_id", client.as_str());
    sql
}

async fn insert_event(conn: &mut Conn, context: &Context, act: Scene<'_>, order: &TokenOrder, names: Names<'_>) -> Result<(), StoreError> {
    let new = NewEvent {
        target_json: &order.target_json,
        target_sub: names.sub.filter(|_| names.sid.is_none()).map(Subject::as_str),
        target_sid: names.sid.map(Sid::as_str),
        reason: order.trigger.reason.as_str(),
        reason_detail: None,
        actor: None,
        correlation_id: None,
        note: None,
        caller: &order.trigger.caller.identity,
    };
    ending::insert_event(conn, context, act, new).await
}

/// Writes the deliveries, and keeps the provider's token for the one it goes with.
async fn tell(
    conn: &mut Conn,
    context: &Context,
    act: Scene<'_>,
    order: &TokenOrder,
    names: Names<'_>,
    mut told: Vec<ToTell>,
    theirs: Option<&SealedToken>,
) -> Result<(), StoreError> {
    if theirs.is_some() && names.sid.is_none() {
        // Sent once: it speaks of all of them.
        told.truncate(1);
        told.iter_mut().for_each(|one| one.sid = None);
    }
    let duty = Duty { kind: DeliveryKind::Relay, ..ending::duty(act) };
    joins::write_deliveries(conn, context, duty, &told, order.opening).await?;
    let (Some(theirs), Some(first)) = (theirs, told.first()) else { return Ok(()) };
    sqlx::query(
        "INSERT INTO relayed_tokens (delivery_id, sealed, expires_at)
         SELECT id, $3, $4 FROM deliveries WHERE event_id = $1 AND kind = $5 AND participant_id = $2 AND state = 'pending'",
    )
    .bind(act.event.as_str())
    .bind(first.participant.as_str())
    .bind(STANDARD.encode(&theirs.octets))
    .bind(theirs.fresh_until.millis())
    .bind(DeliveryKind::Relay.as_str())
    .execute(conn)
    .await?;
    Ok(())
}

/// What an attempt has to know of the deliveries that pass a provider's token on, by their ids.
pub(super) async fn facts(conn: &mut Conn, leased: &[Leased]) -> Result<HashMap<String, RelayedFacts>, StoreError> {
    let ids: Vec<&str> = leased.iter().filter(|one| one.kind == DeliveryKind::Relay).map(|one| one.id.as_str()).collect();
    let mut facts: HashMap<String, RelayedFacts> = HashMap::new();
    for ids in ids.chunks(super::ROWS_MAX) {
        for id in ids {
            facts.insert((*id).to_owned(), RelayedFacts { theirs: None, past: Vec::new(), key_seen_at: None });
        }
        tokens(conn, ids, &mut facts).await?;
        past(conn, ids, &mut facts).await?;
        keys_seen(conn, ids, &mut facts).await?;
    }
    Ok(facts)
}

async fn tokens(conn: &mut Conn, ids: &[&str], facts: &mut HashMap<String, RelayedFacts>) -> Result<(), StoreError> {
    let mut sql = Builder::new("SELECT delivery_id, sealed, expires_at FROM relayed_tokens WHERE delivery_id IN ");
    push_list(&mut sql, ids.iter().copied());
    let rows: Vec<(String, String, i64)> = sql.build_query_as().fetch_all(conn).await?;
    for (id, sealed, expires_at) in rows {
        let octets = STANDARD.decode(&sealed).map_err(|_| corrupt("relayed_tokens", "sealed"))?;
        let theirs = Some(SealedToken { octets, fresh_until: Timestamp::from_millis(expires_at) });
        facts.entry(id).and_modify(|facts| facts.theirs = theirs);
    }
    Ok(())
}

async fn past(conn: &mut Conn, ids: &[&str], facts: &mut HashMap<String, RelayedFacts>) -> Result<(), StoreError> {
    let mut sql = Builder::new("SELECT delivery_id, status, failure, jti, kid FROM attempts WHERE delivery_id IN ");
    push_list(&mut sql, ids.iter().copied());
    sql.push(" ORDER BY started_at, id");
    type Row = (String, Option<i64>, Option<String>, Option<String>, Option<String>);
    let rows: Vec<Row> = sql.build_query_as().fetch_all(conn).await?;
    for (id, status, failure, jti, kid) in rows {
        let attempt = PastAttempt {
            // Ours are signed with a key that has a name; what was never signed is no token of theirs either.
            token: if jti.is_some() && kid.is_none() { SentToken::Theirs } else { SentToken::Ours },
            status: status.map(|status| number(status, "attempts", "status")).transpose()?,
            failure: failure.map(|failure| word(Failure::parse(&failure), "attempts", "failure")).transpose()?,
        };
        facts.entry(id).and_modify(|facts| facts.past.push(attempt));
    }
    Ok(())
}

async fn keys_seen(conn: &mut Conn, ids: &[&str], facts: &mut HashMap<String, RelayedFacts>) -> Result<(), StoreError> {
    let mut sql = Builder::new(
        "SELECT d.id, k.last_seen_at FROM deliveries AS d
           JOIN clients AS c ON c.issuer_id = d.issuer_id AND c.client_id = d.client_id
           JOIN signing_keys AS k ON k.issuer_id = c.issuer_id AND k.alg = c.alg AND k.state = 'active' AND k.seen_at IS NOT NULL
          WHERE d.id IN ",
    );
    push_list(&mut sql, ids.iter().copied());
    let rows: Vec<(String, Option<i64>)> = sql.build_query_as().fetch_all(conn).await?;
    for (id, seen_at) in rows {
        facts.entry(id).and_modify(|facts| facts.key_seen_at = instant(seen_at));
    }
    Ok(())
}

/// The statements of a relay as planners see them.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    let word = || "1".to_owned();
    let (issuer, client, sub, sid) = (IssuerId::stored(word()), ClientId::stored(word()), Subject::stored(word()), Sid::stored(word()));
    let (now, home) = (Timestamp::from_millis(1), SessionId::stored(word()));
    let by_sid = Names { client: &client, sub: Some(&sub), sid: Some(&sid) };
    let by_sub = Names { sid: None, ..by_sid };
    let targets = [ParticipationsOf::ClientSid(client.clone(), sid.clone()), ParticipationsOf::ClientSub(client.clone(), sub.clone())];
    let recents = targets.map(|of| ("a recent relay", recent_of(&issuer, &Resolved::Participations(of), Some(&home), now)));
    let homes = homes(&issuer, by_sid).into_iter().chain(homes(&issuer, by_sub)).map(|sql| ("the session a token is about", sql));
    let echoes = [by_sid, by_sub].map(|names| ("an echo", echo_of(&issuer, names, now)));
    let taught = ("what a client calls a person", taught(&issuer, &sub, &client, &sub));
    recents.into_iter().chain(homes).chain(echoes).chain([taught]).collect()
}
