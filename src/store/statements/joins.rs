//! Participants and refresh tokens joining a session, and the deliveries written for participants that are told to log out.

use super::cut_offs::{self, Known};
use super::sessions::SessionRow;
use super::tokens::stored_name;
use super::{Builder, Conn, millis};
use crate::model::client::ClientRecord;
use crate::model::cut_off::{CutOff, CutOffScope};
use crate::model::delivery::{Class, DeliveryKind, DeliveryState, Lane};
use crate::model::effects::{
    EndFact, KnownParticipation, Offline, Opening, OpeningRule, ParticipantDecision, ParticipantFacts, ReportRules, TokenDecision,
    TokenReportFacts, Told,
};
use crate::model::report::{PARTICIPANTS_MAX, ParticipantReport, ReportRefused, TokenDetails};
use crate::model::session::{Life, ParticipantView};
use crate::model::{ClientId, DeliveryId, EventId, GrantId, IssuerId, ParticipantId, RefreshTokenId, SessionId, Sid, Subject, Timestamp};
use crate::store::{Context, StoreError};

/// What every step of one report shares.
#[derive(Clone, Copy)]
pub(super) struct Desk<'a> {
    pub(super) context: &'a Context,
    pub(super) issuer: &'a IssuerId,
    pub(super) rules: ReportRules,
    pub(super) now: Timestamp,
}

/// A session that is joined, live or ended.
pub(super) struct Joined {
    pub(super) id: SessionId,
    pub(super) sid: Option<Sid>,
    pub(super) sub: Option<Subject>,
    pub(super) started_at: Timestamp,
    pub(super) end: Option<EndFact>,
}

impl Joined {
    pub(super) fn of(row: &SessionRow) -> Self {
        Self {
            id: SessionId::stored(row.id.clone()),
            sid: row.sid.clone().map(Sid::stored),
            sub: row.sub.clone().map(Subject::stored),
            started_at: Timestamp::from_millis(row.started_at),
            end: end_of(row),
        }
    }
}

/// How a session ended, if it has.
pub(super) fn end_of(row: &SessionRow) -> Option<EndFact> {
    let (at, event) = (row.ended_at?, row.ended_by.clone()?);
    Some(EndFact { at: Timestamp::from_millis(at), event: EventId::stored(event), compromise: row.ended_grave, offline: row.ended_offline })
}

/// Adds the participants that are new, tells those that come late, and registers their refresh tokens.
pub(super) async fn participants(
    conn: &mut Conn,
    desk: Desk<'_>,
    session: &Joined,
    reported: &[ParticipantReport],
) -> Result<Result<(), ReportRefused>, StoreError> {
    let mut known = super::sessions::participants_of(conn, &[session.id.as_str()]).await?.remove(session.id.as_str()).unwrap_or_default();
    let mut late = Vec::new();
    for participant in reported {
        let Some(joined) = participate(conn, desk, session, participant, &known).await? else { continue };
        if known.len() >= PARTICIPANTS_MAX {
            return Ok(Err(ReportRefused::TooManyParticipants));
        }
        let (view, end) = joined;
        late.extend(end.map(|end| (view.clone(), end)));
        known.push(view);
    }
    tell_late_joiners(conn, desk, session, &late).await?;
    for participant in reported {
        let Some(details) = &participant.refresh_token else { continue };
        match token(conn, desk, Some(session), session.sub.as_ref(), &participant.client_id, details).await? {
            // The report is about the session; that it has ended is in the answer.
            Ok(_) | Err(ReportRefused::SessionEnded | ReportRefused::UnknownSession) => {}
            Err(refused @ (ReportRefused::OtherSubject | ReportRefused::OtherOwner | ReportRefused::TooManyParticipants)) => {
                return Ok(Err(refused));
            }
        }
    }
    Ok(Ok(()))
}

type NewParticipant = (ParticipantView, Option<EndFact>);

/// One participant: none when nothing is new.
async fn participate(
    conn: &mut Conn,
    desk: Desk<'_>,
    session: &Joined,
    reported: &ParticipantReport,
    known: &[ParticipantView],
) -> Result<Option<NewParticipant>, StoreError> {
    let sid = reported.sid.as_ref().or(session.sid.as_ref());
    let sub = reported.sub.as_ref().or(session.sub.as_ref());
    let same = known.iter().filter(|one| one.client_id == reported.client_id && one.sid.as_ref() == sid);
    // The live one if there is one, else the latest.
    let same = same.max_by_key(|one| (one.ended_at.is_none(), one.ended_at));
    let joined_at = reported.joined_at.unwrap_or(session.started_at);
    let names = Known {
        sub: session.sub.as_ref(),
        sid: session.sid.as_ref(),
        client: Some(&reported.client_id),
        client_sub: sub,
        client_sid: sid,
        origin_sid: None,
    };
    let cut_offs = of_participations(cut_offs::covering(conn, desk.issuer, names).await?);
    let decision = (desk.rules.participant)(&ParticipantFacts {
        session_end: session.end.as_ref(),
        known: same.map(|one| KnownParticipation {
            life: if one.ended_at.is_none() { Life::Live } else { Life::Ended },
            joined_at: one.joined_at,
            ended_at: one.ended_at,
        }),
        cut_offs: &cut_offs,
        joined_at: Some(joined_at),
    });
    let end = match decision {
        ParticipantDecision::Known => return Ok(None),
        ParticipantDecision::Join => None,
        ParticipantDecision::LateJoiner(end) => Some(end),
    };
    let view = ParticipantView {
        id: desk.context.entropy.id(desk.now),
        client_id: reported.client_id.clone(),
        sid: sid.cloned(),
        sub: sub.cloned(),
        joined_at,
        ended_at: end.as_ref().map(|end| end.at),
        ended_by: end.as_ref().map(|end| end.event.clone()),
    };
    insert_participant(conn, desk, session, &view).await?;
    Ok(Some((view, end)))
}

/// What covers sessions was weighed when the session was.
fn of_participations(cut_offs: Vec<CutOff>) -> Vec<CutOff> {
    cut_offs.into_iter().filter(|cut_off| !matches!(cut_off.scope, CutOffScope::Subject { .. } | CutOffScope::Session(_))).collect()
}

async fn insert_participant(conn: &mut Conn, desk: Desk<'_>, session: &Joined, view: &ParticipantView) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO participants (id, session_id, issuer_id, client_id, sid, sub, joined_at, created_at, ended_at, ended_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(view.id.as_str())
    .bind(session.id.as_str())
    .bind(desk.issuer.as_str())
    .bind(view.client_id.as_str())
    .bind(view.sid.as_ref().map_or("", Sid::as_str))
    .bind(view.sub.as_ref().map(Subject::as_str))
    .bind(view.joined_at.millis())
    .bind(desk.now.millis())
    .bind(millis(view.ended_at))
    .bind(view.ended_by.as_ref().map(EventId::as_str))
    .execute(conn)
    .await?;
    Ok(())
}

/// Once each, counted on the receipt of what ended them.
async fn tell_late_joiners(conn: &mut Conn, desk: Desk<'_>, session: &Joined, late: &[LateJoiner]) -> Result<(), StoreError> {
    for (view, end) in late {
        let told = ToTell {
            participant: view.id.clone(),
            session: session.id.clone(),
            client_id: view.client_id.clone(),
            sid: view.sid.clone(),
            sub: view.sub.clone(),
        };
        let duty = Duty {
            issuer: desk.issuer,
            event: &end.event,
            class: if end.compromise { Class::Compromise } else { Class::Interactive },
            compromise: end.compromise,
            late_joiner: true,
            occurred_at: end.at,
            now: desk.now,
        };
        write_deliveries(conn, desk.context, duty, &[told], desk.rules.opening).await?;
    }
    Ok(())
}

type LateJoiner = (ParticipantView, EndFact);

/// Somebody to be told.
pub(super) struct ToTell {
    pub(super) participant: ParticipantId,
    pub(super) session: SessionId,
    pub(super) client_id: ClientId,
    pub(super) sid: Option<Sid>,
    pub(super) sub: Option<Subject>,
}

/// What a batch of deliveries has in common.
#[derive(Clone, Copy)]
pub(super) struct Duty<'a> {
    pub(super) issuer: &'a IssuerId,
    pub(super) event: &'a EventId,
    pub(super) class: Class,
    pub(super) compromise: bool,
    pub(super) late_joiner: bool,
    pub(super) occurred_at: Timestamp,
    pub(super) now: Timestamp,
}

pub(super) const fn class_number(class: Class) -> i64 {
    match class {
        Class::Compromise => 0,
        Class::Interactive => 1,
        Class::Bulk => 2,
    }
}

/// Writes one delivery for each, in as few statements as they fit in.
pub(super) async fn write_deliveries(
    conn: &mut Conn,
    context: &Context,
    duty: Duty<'_>,
    told: &[ToTell],
    opening: OpeningRule,
) -> Result<(), StoreError> {
    let mut wanted: Vec<_> = told.iter().map(|one| (duty.issuer.clone(), one.client_id.clone())).collect();
    wanted.sort();
    wanted.dedup();
    let clients = super::registry::clients_of(conn, &wanted).await?;
    for chunk in told.chunks(super::ROWS_MAX) {
        insert_deliveries(conn, context, duty, chunk, &clients, opening).await?;
    }
    Ok(())
}

async fn insert_deliveries(
    conn: &mut Conn,
    context: &Context,
    duty: Duty<'_>,
    told: &[ToTell],
    clients: &[ClientRecord],
    opening: OpeningRule,
) -> Result<(), StoreError> {
    if told.is_empty() {
        return Ok(());
    }
    let now = duty.now;
    let mut sql = Builder::new(
        "INSERT INTO deliveries (id, issuer_id, event_id, kind, client_id, lane, participant_id, session_id, sid, sub, state, reason, class, \
         compromise, late_joiner, attempts, recoverable, refused, config_fault, redirected, blocked, ours, due_at, horizon_at, horizon_ms, \
         occurred_at, created_at, settled_at) ",
    );
    sql.push_values(told, |mut row, one| {
        let client = clients.iter().find(|client| client.client_id == one.client_id);
        let names = Told { client_id: &one.client_id, sid: one.sid.as_ref(), sub: one.sub.as_ref() };
        let (state, reason, horizon_at, settled_at) = match opening(&names, client, now) {
            Opening::Pending { horizon_at } => (DeliveryState::Pending, None, horizon_at, None),
            Opening::Unreachable(reason) => (DeliveryState::Unreachable, Some(reason.as_str()), now, Some(now.millis())),
        };
        row.push_bind(context.entropy.id::<DeliveryId>(now).as_str().to_owned())
            .push_bind(duty.issuer.as_str().to_owned())
            .push_bind(duty.event.as_str().to_owned())
            .push_bind(DeliveryKind::LogoutToken.as_str())
            .push_bind(one.client_id.as_str().to_owned())
            .push_bind(Lane::of(duty.issuer, &one.client_id).as_str().to_owned())
            .push_bind(one.participant.as_str().to_owned())
            .push_bind(one.session.as_str().to_owned())
            .push_bind(one.sid.as_ref().map(|sid| sid.as_str().to_owned()))
            .push_bind(one.sub.as_ref().map(|sub| sub.as_str().to_owned()))
            .push_bind(state.as_str())
            .push_bind(reason)
            .push_bind(class_number(duty.class))
            .push_bind(duty.compromise)
            .push_bind(duty.late_joiner)
            .push("0, 0, 0, 0, 0, 0, 0")
            .push_bind(now.millis())
            .push_bind(horizon_at.millis())
            .push_bind(super::duration_ms(horizon_at.since(now)))
            .push_bind(duty.occurred_at.millis())
            .push_bind(now.millis())
            .push_bind(settled_at);
    });
    // The same duty may already be written by a run that was repeated.
    sql.push(" ON CONFLICT (event_id, kind, participant_id) DO NOTHING");
    sql.build().execute(conn).await?;
    Ok(())
}

/// Whether a token was registered anew, and whether it counts as live.
pub(super) type Registered = Result<(bool, bool), ReportRefused>;

/// Registers one refresh token. Each is a family of its own until it is rotated.
pub(super) async fn token(
    conn: &mut Conn,
    desk: Desk<'_>,
    session: Option<&Joined>,
    sub: Option<&Subject>,
    client_id: &ClientId,
    details: &TokenDetails,
) -> Result<Registered, StoreError> {
    if let Some(known) = registered(conn, desk, session, sub, client_id, details).await? {
        return Ok(known);
    }
    let sid = session.and_then(|session| session.sid.as_ref());
    let names = Known { sub, sid, client: Some(client_id), ..Known::default() };
    let cut_offs = cut_offs::covering(conn, desk.issuer, names).await?;
    let decision = (desk.rules.token)(&TokenReportFacts {
        session_end: session.and_then(|session| session.end.as_ref()),
        session_live: session.is_some_and(|session| session.end.is_none()),
        session_started_at: session.map(|session| session.started_at),
        offline: if details.offline_access { Offline::Spared } else { Offline::Taken },
        cut_offs: &cut_offs,
        issued_at: details.issued_at,
    });
    let revoked_by = match &decision {
        TokenDecision::UnknownSession => return Ok(Err(ReportRefused::UnknownSession)),
        TokenDecision::Live => None,
        TokenDecision::Revoked(event) | TokenDecision::CutOff(event) => Some(event),
    };
    insert_token(conn, desk, session, sub, client_id, details, revoked_by).await?;
    Ok(match decision {
        TokenDecision::Revoked(_) => Err(ReportRefused::SessionEnded),
        TokenDecision::Live => Ok((true, true)),
        TokenDecision::CutOff(_) | TokenDecision::UnknownSession => Ok((true, false)),
    })
}

/// A token reported before: the same owner gets the same answer, another is refused.
async fn registered(
    conn: &mut Conn,
    desk: Desk<'_>,
    session: Option<&Joined>,
    sub: Option<&Subject>,
    client_id: &ClientId,
    details: &TokenDetails,
) -> Result<Option<Registered>, StoreError> {
    type Found = (String, Option<String>, Option<String>, Option<i64>);
    let found: Option<Found> = sqlx::query_as(
        "SELECT g.client_id, g.sub, COALESCE(g.session_id, g.origin_session_id), g.revoked_at
           FROM refresh_tokens AS t JOIN grants AS g ON g.id = t.grant_id WHERE t.issuer_id = $1 AND t.name = $2",
    )
    .bind(desk.issuer.as_str())
    .bind(stored_name(&details.name))
    .fetch_optional(conn)
    .await?;
    let Some((client, owner, bound, revoked_at)) = found else { return Ok(None) };
    let same = client == client_id.as_str()
        && owner.as_deref() == sub.map(Subject::as_str)
        && bound.as_deref() == session.map(|session| session.id.as_str());
    let ended = session.is_some_and(|session| session.end.is_some()) && !details.offline_access;
    Ok(Some(match (same, ended) {
        (false, _) => Err(ReportRefused::OtherOwner),
        (true, true) => Err(ReportRefused::SessionEnded),
        (true, false) => Ok((false, revoked_at.is_none())),
    }))
}

async fn insert_token(
    conn: &mut Conn,
    desk: Desk<'_>,
    session: Option<&Joined>,
    sub: Option<&Subject>,
    client_id: &ClientId,
    details: &TokenDetails,
    revoked_by: Option<&EventId>,
) -> Result<(), StoreError> {
    let grant: GrantId = desk.context.entropy.id(desk.now);
    let session_id = session.map(|session| session.id.as_str());
    sqlx::query(
        "INSERT INTO grants (id, issuer_id, client_id, sub, session_id, origin_session_id, offline, begun_at, created_at, revoked_at, revoked_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(grant.as_str())
    .bind(desk.issuer.as_str())
    .bind(client_id.as_str())
    .bind(sub.map(Subject::as_str))
    .bind(session_id.filter(|_| !details.offline_access))
    .bind(session_id.filter(|_| details.offline_access))
    .bind(details.offline_access)
    .bind(details.issued_at.unwrap_or(desk.now).millis())
    .bind(desk.now.millis())
    .bind(revoked_by.map(|_| desk.now.millis()))
    .bind(revoked_by.map(EventId::as_str))
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "INSERT INTO refresh_tokens (id, issuer_id, name, grant_id, issued_at, expires_at, scope, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(desk.context.entropy.id::<RefreshTokenId>(desk.now).as_str())
    .bind(desk.issuer.as_str())
    .bind(stored_name(&details.name))
    .bind(grant.as_str())
    .bind(details.issued_at.unwrap_or(desk.now).millis())
    .bind(millis(details.expires_at))
    .bind(details.scope.as_deref())
    .bind(desk.now.millis())
    .execute(conn)
    .await?;
    Ok(())
}
