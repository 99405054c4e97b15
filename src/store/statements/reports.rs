//! What providers report, applied in order: each item undone by itself when it is refused.

use std::borrow::Cow;

use super::cut_offs::{self, Known, Which};
use super::expansion;
use super::families::{self, Member};
use super::joins::{self, Desk, Joined, Owner, TokenStanding, end_of};
use super::sessions::{self, SessionRow};
use super::token_events::{self, Notes};
use super::{Builder, Conn, access_tokens, dialect, expiry, gaps, millis, name_lock, subject_lock};
use crate::model::access::Caller;
use crate::model::effects::{EndCause, EndFact, EndedFact, LiveFact, ReportRules, SaidAge, SessionDecision, SessionFacts};
use crate::model::gap::GapSpan;
use crate::model::issuer::{Age, IssuerRecord};
use crate::model::report::{
    AccessTokenReport, ParticipantReport, Report, ReportRefused, Reported, SessionReport, SessionStanding, TokenOwner, TokenReport,
};
use crate::model::session::{Life, ParticipantView, SessionName};
use crate::model::{ClientId, EventId, IssuerId, ProviderKey, SessionId, Sid, Subject, Timestamp};
use crate::store::{Context, Ending, StoreError, Told};

type Outcome = Result<Result<Reported, ReportRefused>, StoreError>;
type Reports = (IssuerRecord, Caller, Vec<Report>, ReportRules);

pub(in crate::store) async fn report(
    conn: &mut Conn,
    context: &Context,
    (issuer, caller, reports, rules): &Reports,
) -> Result<Ending<Told>, StoreError> {
    dialect::share_issuer(conn, &issuer.id).await?;
    let members = members_of(conn, &issuer.id, reports).await?;
    let subjects = subjects_of(conn, &issuer.id, reports, &members).await?;
    let names = reports.iter().filter_map(session_of).map(name_lock);
    let own_names = reports.iter().flat_map(participants_of).flat_map(own_name_locks);
    let families = members.iter().flat_map(Member::locks);
    let locks: Vec<String> = subjects.iter().map(subject_lock).chain(names).chain(own_names).chain(families).collect();
    dialect::own_names(conn, &issuer.id, &locks).await?;
    let notes = Notes::default();
    let now = dialect::now(conn, &context.clock).await?;
    let desk = Desk { context, issuer: &issuer.id, rules: *rules, now, notes: &notes };
    let named: Vec<&SessionName> = reports.iter().filter_map(session_of).collect();
    expansion::overtake(conn, context, &issuer.id, &named, &subjects, rules.opening, now).await?;
    let mut outcomes = Vec::with_capacity(reports.len());
    for report in reports {
        sqlx::query("SAVEPOINT item").execute(&mut *conn).await?;
        let outcome = apply(conn, desk, issuer, &subjects, report).await?;
        if outcome.as_ref().is_err_and(|refused| !refused.leaves_traces()) {
            sqlx::query("ROLLBACK TO SAVEPOINT item").execute(&mut *conn).await?;
        }
        sqlx::query("RELEASE SAVEPOINT item").execute(&mut *conn).await?;
        outcomes.push(outcome);
    }
    let seen = notes.into_seen();
    token_events::write(conn, context, (&issuer.id, caller), &seen.noticed, now).await?;
    Ok(Ending::Keep(Told { outcomes, seen }))
}

/// The session a report names.
fn session_of(report: &Report) -> Option<&SessionName> {
    match report {
        Report::Session(SessionReport { session, .. })
        | Report::Join { session, .. }
        | Report::Touch { session, .. }
        | Report::Leave { session, .. }
        | Report::RefreshToken(TokenReport { owner: TokenOwner::Session(session), .. })
        | Report::AccessToken(AccessTokenReport { owner: TokenOwner::Session(session), .. }) => Some(session),
        Report::RefreshToken(TokenReport { owner: TokenOwner::Subject(_), .. })
        | Report::AccessToken(AccessTokenReport { owner: TokenOwner::Subject(_), .. })
        | Report::Rotated(_) => None,
    }
}

/// The participants a report names.
fn participants_of(report: &Report) -> &[ParticipantReport] {
    match report {
        Report::Session(session) => &session.participants,
        Report::Join { participant, .. } => std::slice::from_ref(participant),
        Report::Touch { .. } | Report::Leave { .. } | Report::RefreshToken(_) | Report::Rotated(_) | Report::AccessToken(_) => &[],
    }
}

/// What is locked for the names a client gives a session and its subject: a logout by those looks for no other.
fn own_name_locks(participant: &ParticipantReport) -> impl Iterator<Item = String> {
    let sid = participant.sid.as_ref().map(|sid| name_lock(&SessionName::Sid(sid.clone())));
    sid.into_iter().chain(participant.sub.as_ref().map(subject_lock))
}

/// The tokens that reports say were replaced, as far as they are known before any of the reports is applied.
async fn members_of(conn: &mut Conn, issuer: &IssuerId, reports: &[Report]) -> Result<Vec<Member>, StoreError> {
    let mut members = Vec::new();
    for report in reports {
        if let Report::Rotated(rotation) = report {
            members.extend(families::member(conn, issuer, &rotation.token).await?);
        }
    }
    Ok(members)
}

/// Whose sessions the reports touch. What is read here without a lock is read again under it.
async fn subjects_of(conn: &mut Conn, issuer: &IssuerId, reports: &[Report], members: &[Member]) -> Result<Vec<Subject>, StoreError> {
    let mut subjects: Vec<Subject> = members.iter().flat_map(Member::subjects).collect();
    for report in reports {
        let name = match report {
            Report::Session(session) => {
                subjects.push(session.sub.clone());
                continue;
            }
            Report::RefreshToken(TokenReport { owner: TokenOwner::Subject(sub), .. })
            | Report::AccessToken(AccessTokenReport { owner: TokenOwner::Subject(sub), .. }) => {
                subjects.push(sub.clone());
                continue;
            }
            Report::Rotated(_) => continue,
            Report::RefreshToken(TokenReport { owner: TokenOwner::Session(name), .. })
            | Report::AccessToken(AccessTokenReport { owner: TokenOwner::Session(name), .. })
            | Report::Join { session: name, .. }
            | Report::Touch { session: name, .. }
            | Report::Leave { session: name, .. } => name,
        };
        subjects.extend(find(conn, issuer, name).await?.and_then(|row| row.sub).map(Subject::stored));
    }
    subjects.sort();
    subjects.dedup();
    Ok(subjects)
}

/// The live session of a name, else the latest.
pub(super) async fn find(conn: &mut Conn, issuer: &IssuerId, name: &SessionName) -> Result<Option<SessionRow>, StoreError> {
    match sessions::live(conn, issuer, name).await? {
        Some(row) => Ok(Some(row)),
        None => sessions::latest_reported(conn, issuer, name).await,
    }
}

/// The same, under the lock of its subject; a session that changed hands since the look starts the transaction over.
async fn find_owned(conn: &mut Conn, desk: Desk<'_>, owned: &[Subject], name: &SessionName) -> Result<Option<Joined>, StoreError> {
    let found = find(conn, desk.issuer, name).await?;
    let session = found.as_ref().map(Joined::of);
    match session.as_ref().and_then(|session| session.sub.as_ref()) {
        Some(sub) if !owned.contains(sub) => Err(StoreError::raced()),
        Some(_) | None => Ok(session),
    }
}

async fn apply(conn: &mut Conn, desk: Desk<'_>, issuer: &IssuerRecord, owned: &[Subject], report: &Report) -> Outcome {
    match report {
        Report::Session(report) => session(conn, desk, issuer, report).await,
        Report::Join { session, participant } => {
            let Some(session) = find_owned(conn, desk, owned, session).await? else { return Ok(Err(ReportRefused::UnknownSession)) };
            standing_after(conn, desk, &session, std::slice::from_ref(participant), Begun::Before).await
        }
        Report::Touch { session, idle_expires_at, expires_at } => {
            let Some(session) = find_owned(conn, desk, owned, session).await? else { return Ok(Err(ReportRefused::UnknownSession)) };
            touch(conn, desk, &session, *idle_expires_at, *expires_at).await
        }
        Report::Leave { session, client_id, sid } => {
            let Some(session) = find_owned(conn, desk, owned, session).await? else { return Ok(Err(ReportRefused::UnknownSession)) };
            leave(conn, desk, &session, client_id, sid.as_ref()).await
        }
        Report::RefreshToken(report) => refresh_token(conn, desk, owned, report).await,
        Report::Rotated(rotation) => Ok(families::turn(conn, desk, issuer, owned, rotation).await?.map(Reported::Rotated)),
        Report::AccessToken(report) => access_token(conn, desk, owned, report).await,
    }
}

async fn session(conn: &mut Conn, desk: Desk<'_>, issuer: &IssuerRecord, report: &SessionReport) -> Outcome {
    let live = sessions::live(conn, desk.issuer, &report.session).await?;
    let ended = match &live {
        Some(_) => None,
        None => sessions::latest_reported(conn, desk.issuer, &report.session).await?,
    };
    let sid = match &report.session {
        SessionName::Sid(sid) => Some(sid),
        SessionName::Key(_) | SessionName::Subject(_) => None,
    };
    let names = Known { sub: Some(&report.sub), sid, ..Known::default() };
    let cut_offs =
        if live.is_some() { Vec::new() } else { cut_offs::covering(conn, &desk.context.veil, desk.issuer, names, Which::OfEvents).await? };
    let live_sub = live.as_ref().and_then(|row| row.sub.clone()).map(Subject::stored);
    let ended_fact = ended.as_ref().and_then(|row| {
        let sub = row.sub.clone().map(Subject::stored);
        Some(EndedFact { sub, started_at: Timestamp::from_millis(row.started_at), age: age_of(row), end: end_of(row)? })
    });
    let gap = gap(conn, desk.issuer, live.as_ref(), report).await?;
    let decision = (desk.rules.session)(&SessionFacts {
        live: live.as_ref().map(|row| LiveFact {
            sub: live_sub.as_ref(),
            started_at: Timestamp::from_millis(row.started_at),
            // What a version before this one knew had no such time.
            reported_at: Timestamp::from_millis(row.reported_at.max(row.created_at)),
            age: age_of(row),
        }),
        ended: ended_fact,
        cut_offs: &cut_offs,
        sid,
        sub: &report.sub,
        started_at: report.started_at,
        said: SaidAge { expires_at: report.expires_at, idle_expires_at: report.idle_expires_at },
        expiry: issuer.expiry,
        gap,
        now: desk.now,
    });
    let ended_row = ended.clone();
    let (session, begun) = match (decision, live, ended) {
        (SessionDecision::OtherSubject, ..) => return Ok(Err(ReportRefused::OtherSubject)),
        (SessionDecision::Merge, Some(row), _) => (merge(conn, desk, &row, report).await?, Begun::Before),
        (SessionDecision::JoinEnded, _, Some(row)) => (Joined::of(&row), Begun::Before),
        (SessionDecision::Renew, Some(row), _) => {
            expiry::make_room(conn, desk, issuer, &row).await?;
            // Judged once more, as a login under a name that nothing lives under: a logout may cover it.
            return Box::pin(self::session(conn, desk, issuer, report)).await;
        }
        (SessionDecision::Displace, Some(row), _) => {
            gaps::make_room(conn, desk, &row, report.started_at.unwrap_or(desk.now)).await?;
            return Box::pin(self::session(conn, desk, issuer, report)).await;
        }
        (SessionDecision::BeginEnded(end), ..) => {
            let session = begin(conn, desk, issuer, report, Some(end.clone())).await?;
            super::provider::tell_late(conn, desk, &session, &report.session, &end).await?;
            (session, Begun::Now)
        }
        (
            SessionDecision::Begin
            | SessionDecision::Renew
            | SessionDecision::Displace
            | SessionDecision::Merge
            | SessionDecision::JoinEnded,
            ..,
        ) => {
            let report = &continued(report, ended_row.as_ref());
            (begin(conn, desk, issuer, report, None).await?, Begun::Now)
        }
    };
    add_aliases(conn, desk.issuer, &session.id, report).await?;
    standing_after(conn, desk, &session, &report.participants, begun).await
}

/// The gaps that matter to a report: only one that names a later start than is known can be of another login, and few do.
async fn gap(conn: &mut Conn, issuer: &IssuerId, live: Option<&SessionRow>, report: &SessionReport) -> Result<Option<GapSpan>, StoreError> {
    match (live, report.started_at) {
        (Some(row), Some(started_at)) if started_at.millis() > row.started_at => gaps::span(conn, issuer).await,
        (Some(_) | None, _) => Ok(None),
    }
}

/// A session that had ended by its age and goes on all the same is the same login still, as far as the report does not say otherwise.
fn continued<'a>(report: &'a SessionReport, ended: Option<&SessionRow>) -> Cow<'a, SessionReport> {
    let by_age = |row: &&SessionRow| end_of(row).is_some_and(|end| end.cause == EndCause::Age);
    let same = |row: &&SessionRow| {
        let started_at = report.started_at.is_none_or(|at| at.millis() == row.started_at);
        started_at && row.sub.as_deref().is_none_or(|sub| sub == report.sub.as_str())
    };
    match ended.filter(by_age).filter(same) {
        None => Cow::Borrowed(report),
        Some(row) => Cow::Owned(SessionReport {
            started_at: Some(Timestamp::from_millis(row.started_at)),
            expires_at: report.expires_at.or(Some(Timestamp::from_millis(row.expires_at))),
            ..report.clone()
        }),
    }
}

/// How long a session may live, as it is registered.
fn age_of(row: &SessionRow) -> Age {
    Age { expires_at: Timestamp::from_millis(row.expires_at), idle_expires_at: super::instant(row.idle_expires_at) }
}

/// Whether this report began the session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begun {
    Now,
    Before,
}

async fn begin(
    conn: &mut Conn,
    desk: Desk<'_>,
    issuer: &IssuerRecord,
    report: &SessionReport,
    end: Option<EndFact>,
) -> Result<Joined, StoreError> {
    let id: SessionId = desk.context.entropy.id(desk.now);
    let started_at = report.started_at.unwrap_or(desk.now);
    let expires_at = report.expires_at.unwrap_or_else(|| started_at.plus(issuer.session_max_age));
    let (sid, key) = match &report.session {
        SessionName::Sid(sid) => (Some(sid), None),
        SessionName::Key(key) => (None, Some(key)),
        SessionName::Subject(_) => (None, None),
    };
    sqlx::query(
        "INSERT INTO sessions (id, issuer_id, sid, provider_key, sub, started_at, expires_at, idle_expires_at, device_id, device_label,
                               device_ip, device_agent, created_at, ended_at, ended_by, ended_offline, ended_grave, epoch, reported_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, (SELECT epoch FROM issuers WHERE id = $2), $13)",
    )
    .bind(id.as_str())
    .bind(desk.issuer.as_str())
    .bind(sid.map(Sid::as_str))
    .bind(key.map(ProviderKey::as_str))
    .bind(report.sub.as_str())
    .bind(started_at.millis())
    .bind(expires_at.millis())
    .bind(millis(report.idle_expires_at))
    .bind(report.device.id.as_deref())
    .bind(report.device.label.as_deref())
    .bind(report.device.ip.as_deref())
    .bind(report.device.user_agent.as_deref())
    .bind(desk.now.millis())
    .bind(end.as_ref().map(|end| end.at.millis()))
    .bind(end.as_ref().map(|end| end.event.as_str()))
    .bind(end.as_ref().is_some_and(|end| end.offline))
    .bind(end.as_ref().is_some_and(|end| end.compromise))
    .execute(conn)
    .await?;
    Ok(Joined { id, sid: sid.cloned(), sub: Some(report.sub.clone()), started_at, end })
}

/// Adds what is new and removes nothing; the latest expiry wins.
async fn merge(conn: &mut Conn, desk: Desk<'_>, row: &SessionRow, report: &SessionReport) -> Result<Joined, StoreError> {
    sqlx::query(
        "UPDATE sessions
            SET sub = COALESCE(sub, $2),
                expires_at = CASE WHEN $3 > expires_at THEN $3 ELSE expires_at END,
                idle_expires_at = CASE WHEN $4 > COALESCE(idle_expires_at, 0) THEN $4 ELSE idle_expires_at END,
                device_id = COALESCE($5, device_id), device_label = COALESCE($6, device_label),
                device_ip = COALESCE($7, device_ip), device_agent = COALESCE($8, device_agent),
                reported_at = $9
          WHERE id = $1",
    )
    .bind(row.id.as_str())
    .bind(report.sub.as_str())
    .bind(millis(report.expires_at))
    .bind(millis(report.idle_expires_at))
    .bind(report.device.id.as_deref())
    .bind(report.device.label.as_deref())
    .bind(report.device.ip.as_deref())
    .bind(report.device.user_agent.as_deref())
    .bind(desk.now.millis())
    .execute(conn)
    .await?;
    let mut joined = Joined::of(row);
    joined.sub = joined.sub.or_else(|| Some(report.sub.clone()));
    Ok(joined)
}

async fn add_aliases(conn: &mut Conn, issuer: &IssuerId, session: &SessionId, report: &SessionReport) -> Result<(), StoreError> {
    if report.aliases.is_empty() {
        return Ok(());
    }
    let mut sql = Builder::new("INSERT INTO session_aliases (issuer_id, alias, session_id) ");
    sql.push_values(&report.aliases, |mut row, alias| {
        row.push_bind(issuer.as_str().to_owned()).push_bind(alias.as_str().to_owned()).push_bind(session.as_str().to_owned());
    });
    sql.push(" ON CONFLICT DO NOTHING");
    sql.build().execute(conn).await?;
    Ok(())
}

/// Lets the participants join, and says how the session stands.
async fn standing_after(
    conn: &mut Conn,
    desk: Desk<'_>,
    session: &Joined,
    reported: &[crate::model::report::ParticipantReport],
    begun: Begun,
) -> Outcome {
    if let Err(refused) = joins::participants(conn, desk, session, reported).await? {
        return Ok(Err(refused));
    }
    let participants = sessions::participants_of(conn, &[session.id.as_str()]).await?.remove(session.id.as_str()).unwrap_or_default();
    let ended_by: Option<EventId> = session.end.as_ref().map(|end| end.event.clone());
    let state = if ended_by.is_some() { Life::Ended } else { Life::Live };
    Ok(Ok(Reported::Session(SessionStanding { created: begun == Begun::Now, state, ended_by, participants })))
}

async fn touch(
    conn: &mut Conn,
    desk: Desk<'_>,
    session: &Joined,
    idle_expires_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
) -> Outcome {
    if session.end.is_some() {
        return Ok(Err(ReportRefused::SessionEnded));
    }
    sqlx::query(
        "UPDATE sessions
            SET idle_expires_at = CASE WHEN $2 > COALESCE(idle_expires_at, 0) THEN $2 ELSE idle_expires_at END,
                expires_at = CASE WHEN $3 > expires_at THEN $3 ELSE expires_at END, reported_at = $4
          WHERE id = $1 AND ended_at IS NULL",
    )
    .bind(session.id.as_str())
    .bind(millis(idle_expires_at))
    .bind(millis(expires_at))
    .bind(desk.now.millis())
    .execute(conn)
    .await?;
    Ok(Ok(Reported::Touched))
}

/// Who left by itself needs not be told.
async fn leave(conn: &mut Conn, desk: Desk<'_>, session: &Joined, client_id: &ClientId, sid: Option<&Sid>) -> Outcome {
    let mut sql = Builder::new("UPDATE participants SET ended_at = ");
    sql.push_bind(desk.now.millis()).push(" WHERE ended_at IS NULL AND session_id = ").push_bind(session.id.as_str().to_owned());
    sql.push(" AND client_id = ").push_bind(client_id.as_str().to_owned());
    if let Some(sid) = sid {
        sql.push(" AND sid = ").push_bind(sid.as_str().to_owned());
    }
    let left = sql.build().execute(conn).await?.rows_affected();
    Ok(Ok(Reported::Left(left)))
}

async fn refresh_token(conn: &mut Conn, desk: Desk<'_>, owned: &[Subject], report: &TokenReport) -> Outcome {
    let Some(holder) = holder(conn, desk, owned, &report.owner, &report.client_id).await? else {
        return Ok(Err(ReportRefused::UnknownSession));
    };
    let registered = joins::token(conn, desk, holder.owner(&report.client_id), &holder.names(&report.client_id), &report.token).await?;
    Ok(registered.map(standing_of_token))
}

async fn access_token(conn: &mut Conn, desk: Desk<'_>, owned: &[Subject], report: &AccessTokenReport) -> Outcome {
    let Some(holder) = holder(conn, desk, owned, &report.owner, &report.client_id).await? else {
        return Ok(Err(ReportRefused::UnknownSession));
    };
    let registered = access_tokens::register(conn, desk, holder.owner(&report.client_id), &holder.names(&report.client_id), report).await?;
    Ok(registered.map(standing_of_token))
}

fn standing_of_token(standing: TokenStanding) -> Reported {
    let TokenStanding { new, active, capped } = standing;
    Reported::TokenRegistered { new, active, capped }
}

/// Whose token is reported: a session's, with whatever its client saw there, or a subject's.
struct Holder {
    session: Option<Joined>,
    sub: Option<Subject>,
    seen: Vec<ParticipantView>,
}

/// None where no session of that name is registered.
async fn holder(
    conn: &mut Conn,
    desk: Desk<'_>,
    owned: &[Subject],
    owner: &TokenOwner,
    client_id: &ClientId,
) -> Result<Option<Holder>, StoreError> {
    Ok(match owner {
        TokenOwner::Subject(sub) => Some(Holder { session: None, sub: Some(sub.clone()), seen: Vec::new() }),
        TokenOwner::Session(name) => match find_owned(conn, desk, owned, name).await? {
            None => None,
            Some(session) => {
                let seen = seen_by(conn, &session, client_id).await?;
                Some(Holder { sub: session.sub.clone(), session: Some(session), seen })
            }
        },
    })
}

impl Holder {
    fn owner<'a>(&'a self, client_id: &'a ClientId) -> Owner<'a> {
        Owner { session: self.session.as_ref(), sub: self.sub.as_ref(), client_id }
    }

    /// By the provider's names, and by whatever that client saw in this session; bound to none, the provider's name for the person is the client's.
    fn names<'a>(&'a self, client_id: &'a ClientId) -> Vec<Known<'a>> {
        let by_provider = Known {
            sub: self.sub.as_ref(),
            sid: self.session.as_ref().and_then(|session| session.sid.as_ref()),
            client: Some(client_id),
            client_sub: self.sub.as_ref(),
            ..Known::default()
        };
        let by_client = self.seen.iter().map(|view| Known {
            client: Some(client_id),
            client_sub: view.sub.as_ref(),
            client_sid: view.sid.as_ref(),
            ..Known::default()
        });
        [by_provider].into_iter().chain(by_client).collect()
    }
}

/// The participations of one client in a session.
async fn seen_by(conn: &mut Conn, session: &Joined, client_id: &ClientId) -> Result<Vec<ParticipantView>, StoreError> {
    let all = sessions::participants_of(conn, &[session.id.as_str()]).await?.remove(session.id.as_str()).unwrap_or_default();
    Ok(all.into_iter().filter(|view| view.client_id == *client_id).collect())
}
