//! The commit of a logout: the read is the write.
//!
//! In this order: the issuer's lock, the idempotency key, the subjects' locks; then sessions end, then their participants are read by ending them,
//! grants are revoked by the target, earlier deliveries are adopted, and the event, its deliveries, its cut-off and its audit record are written.
//! Two logouts of one `sid` therefore tell each client once, and both receipts are true.

use std::collections::BTreeSet;

use super::cut_offs;
use super::ending::{self, Ended, EndedSession, NewEvent, Scene, Secrets, Terms};
use super::expansion::{self, Plan};
use super::families;
use super::joins::{self, ToTell, class_number};
use super::provider;
use super::reports::find;
use super::secrets;
use super::sessions::push_name;
use super::tokens::stored_name;
use super::works;
use super::{Builder, Conn, dialect, name_lock, push_equal, push_list, push_text, subject_lock};
use crate::model::access::Caller;
use crate::model::audit::Act;
use crate::model::cut_off::{CutOff, CutOffScope, Origin};
use crate::model::delivery::Class;
use crate::model::effects::{Adopt, Offline, OpeningRule, ProviderWord, Reach};
use crate::model::event::{Counts, EventState, ProviderCounts, ProviderTold, Receipt};
use crate::model::report::TokenName;
use crate::model::session::SessionName;
use crate::model::trigger::{Except, Idempotency, Reused, Target, Trigger};
use crate::model::{ClientId, EventId, GrantId, IssuerId, ParticipantId, RefreshTokenId, SessionId, Sid, Subject, Timestamp};
use crate::store::{AuditEntry, CommitRefused, Committed, Context, Ending, Mode, StoreError};

/// How many sessions or participations one transaction ends at most.
const ENDED_MAX: usize = 1000;

pub(super) type Input = (Trigger, Reach, String, Mode, OpeningRule);
type Outcome = Result<Ending<Result<Committed, CommitRefused>>, StoreError>;

pub(in crate::store) async fn commit(conn: &mut Conn, context: &Context, input: &Input) -> Outcome {
    let (trigger, _, _, mode, _) = input;
    lock_issuer(conn, trigger).await?;
    let now = dialect::now(conn, &context.clock).await?;
    let event: EventId = context.entropy.id(now);
    if let (Mode::Commit, Some(key)) = (mode, &trigger.idempotency)
        && let Some(known) = take_key(conn, (&trigger.issuer, &trigger.caller), key, &event, now).await?
    {
        return replay(conn, &trigger.issuer, key, known).await;
    }
    conclude(conn, context, input, (&event, now), None).await
}

/// All of a commit but what keeps it from being done twice. Where a session that is named is not known, `otherwise` says whose sessions without a `sid`
/// end in its place.
pub(super) async fn conclude(
    conn: &mut Conn,
    context: &Context,
    input: &Input,
    (event, now): (&EventId, Timestamp),
    otherwise: Option<&Subject>,
) -> Outcome {
    let (trigger, reach, target_json, mode, opening) = input;
    let at = trigger.occurred_at.unwrap_or(now);
    let act = Scene { issuer: &trigger.issuer, event, at, now, terms: Terms::of(reach), owned: &[] };
    if Plan::is_always_of_many(reach) {
        return commit_many(conn, context, act, input).await;
    }
    let target = or_sidless(resolve(conn, &trigger.issuer, &reach.target).await?, otherwise);
    let owned = lock(conn, &trigger.issuer, &target).await?;
    let act = Scene { owned: &owned, ..act };
    if named(conn, act, &target).await? > ENDED_MAX {
        return commit_many(conn, context, act, input).await;
    }
    let ending = end(conn, act, &target).await?;
    if let (Secrets::Changed, Resolved::Sessions(SessionsOf::Subject { sub, .. })) = (act.terms.secrets, &target) {
        // Whether or not a session of theirs is known.
        secrets::change(conn, act, std::iter::once(sub)).await?;
    }
    insert_event(conn, context, act, trigger, target_json).await?;
    let tokens = ending::revoked(conn, context, act, revocations(act, &target, &ending)).await?;
    if let (Resolved::Nothing, Target::RefreshToken { names, .. }) = (&target, &reach.target) {
        remember_token(conn, context, act, names).await?;
    }
    let ended = Ended { tokens, ..ending.counted() };
    ending::count_on_receipt(conn, event, ended).await?;
    adopt(conn, act, &target, reach.adopt).await?;
    match (ending.ended.as_slice(), trigger.tell_provider) {
        ([], Some(true)) => provider::tell_of_unknown(conn, context, act, &trigger.target).await?,
        (ended, _) => provider::tell(conn, context, act, ended).await?,
    }
    joins::write_deliveries(conn, context, ending::duty(act), &ending.told, *opening).await?;
    if reach.adopt == Adopt::Reopen {
        let untold = untold(conn, act, &target).await?;
        joins::write_deliveries(conn, context, ending::duty(act), &untold, *opening).await?;
    }
    if let Some(scope) = &reach.cut_off {
        leave_cut_off(conn, context, act, scope.clone(), &reach.except, None).await?;
    }
    families::make_due(conn, act, trigger).await?;
    super::registry::record(conn, context, &audit_entry(trigger, target_json, event, ended)).await?;
    let receipt = super::events::receipt(conn, &trigger.issuer, event).await?.ok_or_else(|| super::corrupt("events", "id"))?;
    let committed = Ok(Committed { receipt, replayed: false });
    Ok(match mode {
        Mode::Commit => Ending::Keep(committed),
        Mode::Rehearse => Ending::Undo(committed),
    })
}

/// Of constant size, whatever the number of sessions: the cut-off makes it effective at once, and a work ends them page by page.
async fn commit_many(conn: &mut Conn, context: &Context, act: Scene<'_>, (trigger, reach, target_json, mode, _): &Input) -> Outcome {
    let epoch: i64 = sqlx::query_scalar("UPDATE issuers SET epoch = epoch + 1 WHERE id = $1 RETURNING epoch")
        .bind(act.issuer.as_str())
        .fetch_one(&mut *conn)
        .await?;
    let plan = match (Plan::of(reach, act.at, epoch), mode) {
        (Some(plan), Mode::Commit) => plan,
        // A rehearsal that counts without ending was tried before.
        (Some(_), Mode::Rehearse) | (None, _) => return Ok(Ending::Undo(Err(CommitRefused::TooMany { max: ENDED_MAX }))),
    };
    insert_event(conn, context, act, trigger, target_json).await?;
    plan.change_secrets(conn, act, reach).await?;
    if let Some(scope) = plan.cut_off(reach) {
        // With a time of its own it reaches what began before that; without one, what was registered before this commit.
        let epoch = if reach.begun_before.is_none() { Some(epoch) } else { None };
        leave_cut_off(conn, context, act, scope, &reach.except, epoch).await?;
    }
    works::begin_expansion(conn, context, (act.issuer, act.event), &plan, act.now).await?;
    families::make_due(conn, act, trigger).await?;
    super::registry::record(conn, context, &audit_entry(trigger, target_json, act.event, Ended::default())).await?;
    let receipt = super::events::receipt(conn, act.issuer, act.event).await?.ok_or_else(|| super::corrupt("events", "id"))?;
    Ok(Ending::Keep(Ok(Committed { receipt, replayed: false })))
}

/// What a logout of many would do, counted and not done; none where one transaction holds it.
pub(in crate::store) async fn rehearse_many(
    conn: &mut Conn,
    context: &Context,
    trigger: &Trigger,
    reach: &Reach,
    target_json: &str,
    opening: OpeningRule,
) -> Result<Option<Receipt>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let (event, at): (EventId, _) = (context.entropy.id(now), trigger.occurred_at.unwrap_or(now));
    let Some(plan) = Plan::of(reach, at, i64::MAX) else { return Ok(None) };
    let most = ENDED_MAX + 1;
    if !Plan::is_always_of_many(reach) && expansion::named(conn, &trigger.issuer, &plan, most).await? < most as u64 {
        return Ok(None);
    }
    let page = expansion::Page { issuer: &trigger.issuer, event: &event, work: "", now, opening };
    let counted = expansion::rehearsed(conn, page, &plan).await?;
    let issuer = &trigger.issuer;
    let counts = Counts { pending: counted.pending, unreachable: counted.unreachable, adopted: counted.adopted, ..Counts::default() };
    Ok(Some(Receipt {
        issuer: trigger.issuer.clone(),
        target: target_json.to_owned(),
        reason: trigger.reason,
        reason_detail: trigger.reason_detail.clone(),
        actor: trigger.actor.clone(),
        correlation_id: trigger.correlation_id.clone(),
        note: trigger.note.clone(),
        state: EventState::Expanding,
        sessions_ended: counted.ended.sessions,
        participations_ended: counted.ended.participations,
        refresh_tokens_revoked: counted.ended.tokens,
        provider: provider_told(conn, reach, counted.ended.sessions, issuer).await?,
        // How many of the tokens could be said is found out page by page.
        revocations: None,
        counts,
        deliveries: Vec::new(),
        would_tell: counted.would_tell,
        occurred_at: at,
        created_at: now,
        undone_at: None,
        settled_at: None,
        id: event,
    }))
}

/// How the provider would stand after a rehearsal.
async fn provider_told(conn: &mut Conn, reach: &Reach, sessions: u64, issuer: &IssuerId) -> Result<Option<ProviderTold>, StoreError> {
    let told = !provider::settings(conn, std::slice::from_ref(issuer)).await?.is_empty();
    let owed = if told && reach.provider == ProviderWord::Due { sessions } else { 0 };
    Ok(ProviderCounts { pending: owed, ..ProviderCounts::default() }.standing(reach.provider, sessions))
}

/// A client's participations are everybody's business: while they end, nobody reports.
async fn lock_issuer(conn: &mut Conn, trigger: &Trigger) -> Result<(), StoreError> {
    match &trigger.target {
        Target::Client(_) | Target::Device(_) | Target::Everyone => dialect::own_issuer(conn, &trigger.issuer).await,
        Target::ClientSub { .. }
        | Target::ClientSid { .. }
        | Target::Session(_)
        | Target::Subject(_)
        | Target::SubjectExcept { .. }
        | Target::SubjectAtClient { .. }
        | Target::SessionAtClient { .. }
        | Target::RefreshToken { .. }
        | Target::Reuse(_) => dialect::share_issuer(conn, &trigger.issuer).await,
    }
}

/// Takes the idempotency key for this event, or says whose it is. A concurrent request with the same key waits here for the other's commit.
pub(super) async fn take_key(
    conn: &mut Conn,
    (issuer, caller): (&IssuerId, &Caller),
    key: &Idempotency,
    event: &EventId,
    now: Timestamp,
) -> Result<Option<(String, String)>, StoreError> {
    let taken = sqlx::query(
        "INSERT INTO idempotency_keys (issuer_id, caller, name, fingerprint, event_id, created_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (issuer_id, caller, name) DO NOTHING",
    )
    .bind(issuer.as_str())
    .bind(&caller.identity)
    .bind(&key.key)
    .bind(key.fingerprint.to_string())
    .bind(event.as_str())
    .bind(now.millis())
    .execute(&mut *conn)
    .await?;
    if taken.rows_affected() == 1 {
        return Ok(None);
    }
    let known = sqlx::query_as("SELECT fingerprint, event_id FROM idempotency_keys WHERE issuer_id = $1 AND caller = $2 AND name = $3")
        .bind(issuer.as_str())
        .bind(&caller.identity)
        .bind(&key.key)
        .fetch_one(conn)
        .await?;
    Ok(Some(known))
}

pub(super) async fn replay(conn: &mut Conn, issuer: &IssuerId, key: &Idempotency, (fingerprint, event): (String, String)) -> Outcome {
    if fingerprint != key.fingerprint.to_string() {
        return Ok(Ending::Undo(Err(CommitRefused::IdempotencyKeyReused)));
    }
    let receipt = super::events::receipt(conn, issuer, &EventId::stored(event)).await?;
    let receipt = receipt.ok_or_else(|| super::corrupt("idempotency_keys", "event_id"))?;
    Ok(Ending::Undo(Ok(Committed { receipt, replayed: true })))
}

/// A target with its refresh token looked up: what it comes to.
pub(super) enum Resolved {
    /// These sessions of the provider's.
    Sessions(SessionsOf),
    /// These participations; their sessions go on.
    Participations(ParticipationsOf),
    /// A grant that is bound to no session.
    Grant(String),
    /// A token nobody registered.
    Nothing,
}

pub(super) enum SessionsOf {
    /// The live session of that name, else the latest, and others of the same person under it.
    Named {
        name: SessionName,
        sub: Option<Subject>,
    },
    Subject {
        sub: Subject,
        except: Option<Sid>,
    },
    /// Those of a subject that have no `sid`, since no session is known by this one.
    Sidless {
        sub: Subject,
        sid: Sid,
    },
    Device(String),
    One(SessionId),
}

pub(super) enum ParticipationsOf {
    Client(ClientId),
    SubjectAtClient(Subject, ClientId),
    SessionAtClient(Sid, ClientId),
    ClientSid(ClientId, Sid),
    ClientSub(ClientId, Subject),
}

async fn resolve(conn: &mut Conn, issuer: &IssuerId, target: &Target) -> Result<Resolved, StoreError> {
    Ok(match target {
        Target::Session(name) => {
            let sub = owner(conn, issuer, name).await?;
            Resolved::Sessions(SessionsOf::Named { name: name.clone(), sub })
        }
        Target::Subject(sub) => Resolved::Sessions(SessionsOf::Subject { sub: sub.clone(), except: None }),
        Target::SubjectExcept { sub, except_sid } => {
            Resolved::Sessions(SessionsOf::Subject { sub: sub.clone(), except: Some(except_sid.clone()) })
        }
        Target::Device(device) => Resolved::Sessions(SessionsOf::Device(device.clone())),
        Target::Client(client) => Resolved::Participations(ParticipationsOf::Client(client.clone())),
        Target::SubjectAtClient { sub, client_id } => {
            Resolved::Participations(ParticipationsOf::SubjectAtClient(sub.clone(), client_id.clone()))
        }
        Target::SessionAtClient { sid, client_id } => {
            Resolved::Participations(ParticipationsOf::SessionAtClient(sid.clone(), client_id.clone()))
        }
        Target::ClientSid { client_id, client_sid } => {
            Resolved::Participations(ParticipationsOf::ClientSid(client_id.clone(), client_sid.clone()))
        }
        Target::ClientSub { client_id, client_sub } => {
            Resolved::Participations(ParticipationsOf::ClientSub(client_id.clone(), client_sub.clone()))
        }
        Target::Reuse(Reused::Family(grant)) => Resolved::Grant(grant.as_str().to_owned()),
        Target::Reuse(Reused::Session(session)) => Resolved::Sessions(SessionsOf::One(session.clone())),
        Target::Reuse(Reused::Subject(sub)) => Resolved::Sessions(SessionsOf::Subject { sub: sub.clone(), except: None }),
        // Never one transaction's.
        Target::Everyone => Resolved::Nothing,
        Target::RefreshToken { names, .. } => {
            let mut sql = Builder::new(
                "SELECT g.id, g.session_id FROM refresh_tokens AS t JOIN grants AS g ON g.id = t.grant_id WHERE t.issuer_id = ",
            );
            sql.push_bind(issuer.as_str().to_owned()).push(" AND t.name IN ");
            let stored: Vec<String> = names.iter().map(stored_name).collect();
            push_list(&mut sql, stored.iter().map(String::as_str));
            sql.push(" ORDER BY t.name DESC LIMIT 1");
            match sql.build_query_as::<(String, Option<String>)>().fetch_optional(conn).await? {
                None => Resolved::Nothing,
                Some((_, Some(session))) => Resolved::Sessions(SessionsOf::One(SessionId::stored(session))),
                Some((grant, None)) => Resolved::Grant(grant),
            }
        }
    })
}

/// A session that is not known may be registered without the `sid` it is named by.
fn or_sidless(target: Resolved, otherwise: Option<&Subject>) -> Resolved {
    match (target, otherwise) {
        (Resolved::Sessions(SessionsOf::Named { name: SessionName::Sid(sid), sub: None }), Some(sub)) => {
            Resolved::Sessions(SessionsOf::Sidless { sub: sub.clone(), sid })
        }
        (target, _) => target,
    }
}

/// Whose session a name is: the live one's, else the latest one's.
async fn owner(conn: &mut Conn, issuer: &IssuerId, name: &SessionName) -> Result<Option<Subject>, StoreError> {
    Ok(find(conn, issuer, name).await?.and_then(|row| row.sub).map(Subject::stored))
}

/// Locks what a report of the same sessions locks: the names, since a session that is being reported cannot be seen yet, and the people. What was
/// looked up without the locks is looked up again under them; where it changed, the transaction starts over.
pub(super) async fn lock(conn: &mut Conn, issuer: &IssuerId, target: &Resolved) -> Result<Vec<Subject>, StoreError> {
    let subjects = subjects_of(conn, issuer, target).await?;
    let locks: Vec<String> = subjects.iter().map(subject_lock).chain(name_of(target).as_ref().map(name_lock)).collect();
    dialect::own_names(conn, issuer, &locks).await?;
    if let Resolved::Sessions(SessionsOf::Named { name, sub }) = target
        && owner(conn, issuer, name).await? != *sub
    {
        return Err(StoreError::raced());
    }
    if let Resolved::Sessions(SessionsOf::Sidless { sid, .. }) = target
        && owner(conn, issuer, &SessionName::Sid(sid.clone())).await?.is_some()
    {
        return Err(StoreError::raced());
    }
    if subjects_of(conn, issuer, target).await?.iter().all(|sub| subjects.contains(sub)) { Ok(subjects) } else { Err(StoreError::raced()) }
}

/// The session name a target gives.
fn name_of(target: &Resolved) -> Option<SessionName> {
    match target {
        Resolved::Sessions(SessionsOf::Named { name, .. }) => Some(name.clone()),
        // What a client calls it is held by whoever reports that client, whatever the provider calls it.
        Resolved::Participations(ParticipationsOf::SessionAtClient(sid, _) | ParticipationsOf::ClientSid(_, sid))
        | Resolved::Sessions(SessionsOf::Sidless { sid, .. }) => Some(SessionName::Sid(sid.clone())),
        Resolved::Sessions(_) | Resolved::Participations(_) | Resolved::Grant(_) | Resolved::Nothing => None,
    }
}

async fn subjects_of(conn: &mut Conn, issuer: &IssuerId, target: &Resolved) -> Result<Vec<Subject>, StoreError> {
    match target {
        Resolved::Sessions(SessionsOf::Subject { sub, .. } | SessionsOf::Sidless { sub, .. })
        | Resolved::Participations(ParticipationsOf::SubjectAtClient(sub, _)) => {
            return Ok(vec![sub.clone()]);
        }
        Resolved::Sessions(SessionsOf::Named { sub, .. }) => return Ok(sub.iter().cloned().collect()),
        // The issuer's lock covers everybody, and an unbound grant has no session to race with.
        Resolved::Participations(ParticipationsOf::Client(_)) | Resolved::Grant(_) | Resolved::Nothing => return Ok(Vec::new()),
        Resolved::Participations(of @ (ParticipationsOf::ClientSid(..) | ParticipationsOf::ClientSub(..))) => {
            return owners(conn, issuer, of).await;
        }
        Resolved::Sessions(SessionsOf::Device(_) | SessionsOf::One(_))
        | Resolved::Participations(ParticipationsOf::SessionAtClient(..)) => {}
    }
    let mut sql = Builder::new("SELECT DISTINCT sub FROM sessions WHERE sub IS NOT NULL AND issuer_id = ");
    sql.push_bind(issuer.as_str().to_owned());
    push_sessions_of_target(&mut sql, target);
    let subs: Vec<String> = sql.build_query_scalar().fetch_all(conn).await?;
    Ok(subs.into_iter().map(Subject::stored).collect())
}

/// Whose sessions a client's own names lead to, and whoever has the client's own name for a subject.
async fn owners(conn: &mut Conn, issuer: &IssuerId, of: &ParticipationsOf) -> Result<Vec<Subject>, StoreError> {
    let mut sql = owners_of(issuer, of);
    let subs: Vec<String> = sql.build_query_scalar().fetch_all(conn).await?;
    let own = match of {
        ParticipationsOf::ClientSub(_, sub) | ParticipationsOf::SubjectAtClient(sub, _) => Some(sub.clone()),
        ParticipationsOf::Client(_) | ParticipationsOf::SessionAtClient(..) | ParticipationsOf::ClientSid(..) => None,
    };
    Ok(subs.into_iter().map(Subject::stored).chain(own).collect())
}

fn owners_of(issuer: &IssuerId, of: &ParticipationsOf) -> Builder {
    let mut sql = Builder::new("SELECT DISTINCT sub FROM sessions WHERE sub IS NOT NULL AND id IN ");
    push_session_ids(&mut sql, issuer, of);
    sql
}

/// ` AND …` over `sessions`: the sessions a target names, live and ended.
fn push_sessions_of_target(sql: &mut Builder, target: &Resolved) {
    match target {
        Resolved::Sessions(SessionsOf::Named { name, sub }) => {
            push_name(sql, name);
            if let Some(sub) = sub {
                push_equal(sql, "sub", sub.as_str());
            }
        }
        Resolved::Sessions(SessionsOf::Subject { sub, except }) => {
            sql.push(" AND sub = ").push_bind(sub.as_str().to_owned());
            if let Some(except) = except {
                sql.push(" AND (sid IS NULL OR sid <> ").push_bind(except.as_str().to_owned()).push(")");
            }
        }
        Resolved::Sessions(SessionsOf::Sidless { sub, .. }) => {
            push_equal(sql, "sub", sub.as_str());
            push_text(sql, " AND sid IS NULL");
        }
        Resolved::Sessions(SessionsOf::Device(device)) => push_equal(sql, "device_id", device),
        Resolved::Sessions(SessionsOf::One(id)) => push_equal(sql, "id", id.as_str()),
        Resolved::Participations(ParticipationsOf::SessionAtClient(sid, _)) => {
            push_equal(sql, "sid", sid.as_str());
        }
        Resolved::Participations(ParticipationsOf::SubjectAtClient(sub, _)) => {
            push_equal(sql, "sub", sub.as_str());
        }
        Resolved::Participations(ParticipationsOf::Client(_) | ParticipationsOf::ClientSid(..) | ParticipationsOf::ClientSub(..))
        | Resolved::Grant(_)
        | Resolved::Nothing => push_text(sql, " AND 1 = 0"),
    }
}

/// ` AND …` over `participants`: the participations a target names.
fn push_participations(sql: &mut Builder, issuer: &IssuerId, target: &ParticipationsOf) {
    match target {
        // From the sessions, which are few: naming the issuer too would send the planner through all of the client's.
        ParticipationsOf::SubjectAtClient(..) | ParticipationsOf::SessionAtClient(..) => {
            sql.push(" AND session_id IN ");
            push_session_ids(sql, issuer, target);
        }
        ParticipationsOf::Client(_) => push_equal(sql, "issuer_id", issuer.as_str()),
        ParticipationsOf::ClientSid(_, sid) => {
            push_equal(sql, "issuer_id", issuer.as_str());
            push_equal(sql, "sid", sid.as_str());
        }
        ParticipationsOf::ClientSub(_, sub) => {
            push_equal(sql, "issuer_id", issuer.as_str());
            push_equal(sql, "sub", sub.as_str());
        }
    }
    push_equal(sql, "client_id", target.client().as_str());
}

/// `(SELECT …)`: the sessions a target's participations are or were in.
pub(super) fn push_session_ids(sql: &mut Builder, issuer: &IssuerId, target: &ParticipationsOf) {
    let of_client = |sql: &mut Builder, column: &'static str, value: &str| {
        sql.push("(SELECT session_id FROM participants WHERE issuer_id = ").push_bind(issuer.as_str().to_owned());
        push_equal(sql, "client_id", target.client().as_str());
        push_equal(sql, column, value);
    };
    let of_provider = |sql: &mut Builder, column: &'static str, value: &str| {
        sql.push("(SELECT id FROM sessions WHERE issuer_id = ").push_bind(issuer.as_str().to_owned());
        push_equal(sql, column, value);
    };
    match target {
        ParticipationsOf::SubjectAtClient(sub, _) => of_provider(sql, "sub", sub.as_str()),
        ParticipationsOf::SessionAtClient(sid, _) => of_provider(sql, "sid", sid.as_str()),
        ParticipationsOf::ClientSid(_, sid) => of_client(sql, "sid", sid.as_str()),
        ParticipationsOf::ClientSub(_, sub) => of_client(sql, "sub", sub.as_str()),
        ParticipationsOf::Client(_) => push_text(sql, "(SELECT id FROM sessions WHERE 1 = 0"),
    }
    sql.push(")");
}

impl ParticipationsOf {
    const fn client(&self) -> &ClientId {
        let (Self::Client(client)
        | Self::SubjectAtClient(_, client)
        | Self::SessionAtClient(_, client)
        | Self::ClientSid(client, _)
        | Self::ClientSub(client, _)) = self;
        client
    }
}

fn push_begun_before(sql: &mut Builder, column: &str, bound: Option<Timestamp>) {
    if let Some(bound) = bound {
        sql.push(format!(" AND {column} < ")).push_bind(bound.millis());
    }
}

/// How many sessions or participations it would end; counting stops beyond what is allowed.
async fn named(conn: &mut Conn, act: Scene<'_>, target: &Resolved) -> Result<usize, StoreError> {
    let mut sql = Builder::new("SELECT CAST(count(*) AS BIGINT) FROM (SELECT id FROM ");
    match target {
        Resolved::Sessions(_) => {
            sql.push("sessions WHERE ended_at IS NULL AND issuer_id = ").push_bind(act.issuer.as_str().to_owned());
            push_sessions_of_target(&mut sql, target);
            push_begun_before(&mut sql, "started_at", act.terms.begun_before);
        }
        Resolved::Participations(of) => {
            sql.push("participants WHERE ended_at IS NULL");
            push_participations(&mut sql, act.issuer, of);
            push_begun_before(&mut sql, "joined_at", act.terms.begun_before);
        }
        Resolved::Grant(_) | Resolved::Nothing => return Ok(0),
    }
    sql.push(" LIMIT 1001) AS named");
    let found: i64 = sql.build_query_scalar().fetch_one(conn).await?;
    Ok(usize::try_from(found).unwrap_or(usize::MAX))
}

/// What ended, and who was in it.
#[derive(Default)]
pub(super) struct Over {
    pub(super) ended: Vec<EndedSession>,
    pub(super) sessions: Vec<SessionId>,
    pub(super) participations: u64,
    pub(super) told: Vec<ToTell>,
}

impl Over {
    pub(super) fn counted(&self) -> Ended {
        Ended { sessions: self.sessions.len() as u64, participations: self.participations, tokens: 0 }
    }
}

pub(super) async fn end(conn: &mut Conn, act: Scene<'_>, target: &Resolved) -> Result<Over, StoreError> {
    match target {
        Resolved::Sessions(_) => {
            let ended = ending::ended_sessions(conn, act, update(act, target)).await?;
            let sessions = ending::ids_of(&ended);
            let told = ending::end_participants_of(conn, act, &sessions).await?;
            Ok(Over { ended, sessions, participations: 0, told })
        }
        Resolved::Participations(_) => {
            let told = ending::ended_participants(conn, update(act, target)).await?;
            Ok(Over { participations: told.len() as u64, told, ..Over::default() })
        }
        Resolved::Grant(_) | Resolved::Nothing => Ok(Over::default()),
    }
}

/// `UPDATE …` of the sessions or participations a target names.
fn update(act: Scene<'_>, target: &Resolved) -> Builder {
    match target {
        Resolved::Participations(of) => {
            let mut sql = ending::participants_update(act);
            push_participations(&mut sql, act.issuer, of);
            push_begun_before(&mut sql, "joined_at", act.terms.begun_before);
            sql
        }
        Resolved::Sessions(_) | Resolved::Grant(_) | Resolved::Nothing => {
            let mut sql = ending::sessions_update(act);
            push_sessions_of_target(&mut sql, target);
            push_begun_before(&mut sql, "started_at", act.terms.begun_before);
            sql
        }
    }
}

/// The grants the target names, alive or not the sessions they came from.
pub(super) fn revocations(act: Scene<'_>, target: &Resolved, ended: &Over) -> Vec<Builder> {
    match target {
        Resolved::Nothing => Vec::new(),
        Resolved::Grant(id) => {
            let mut sql = ending::revocation(act);
            push_equal(&mut sql, "id", id);
            vec![sql]
        }
        Resolved::Sessions(of) => revocations_of_sessions(act, target, of, &ended.sessions),
        Resolved::Participations(of) => revocations_of_participations(act, of, ended),
    }
}

fn revocations_of_sessions(act: Scene<'_>, target: &Resolved, of: &SessionsOf, ended: &[SessionId]) -> Vec<Builder> {
    let mut all = ending::revocations_with(Scene { terms: Terms { offline: Offline::Spared, ..act.terms }, ..act }, ended);
    if let SessionsOf::Subject { sub, .. } = of {
        all.push(unbound(act, sub));
    }
    // Offline grants, wherever they came from: a compromise after a plain logout still finds them.
    if act.terms.offline == Offline::Taken {
        let mut sql = ending::revocation(act);
        sql.push(" AND offline AND origin_session_id IN (SELECT id FROM sessions WHERE issuer_id = ")
            .push_bind(act.issuer.as_str().to_owned());
        push_sessions_of_target(&mut sql, target);
        push_begun_before(&mut sql, "started_at", act.terms.begun_before);
        sql.push(")");
        all.push(sql);
    }
    all
}

/// Grants of a subject that are bound to no session of theirs.
fn unbound(act: Scene<'_>, sub: &Subject) -> Builder {
    let mut sql = ending::revocation(act);
    push_equal(&mut sql, "issuer_id", act.issuer.as_str());
    push_equal(&mut sql, "sub", sub.as_str());
    push_text(&mut sql, " AND session_id IS NULL AND origin_session_id IS NULL");
    push_offline(&mut sql, act.terms.offline);
    push_begun_before(&mut sql, "begun_at", act.terms.begun_before);
    sql
}

fn revocations_of_participations(act: Scene<'_>, of: &ParticipationsOf, ended: &Over) -> Vec<Builder> {
    let mut all = Vec::with_capacity(5);
    // Whatever their age: a token drawn after the end it is about is the thief's as well as anybody's.
    let sessions: BTreeSet<&str> = ended.told.iter().map(|told| told.session.as_str()).collect();
    if !sessions.is_empty() {
        for column in ending::columns(act.terms.offline) {
            let mut sql = ending::revocation(act);
            sql.push(format!(" AND {column} IN "));
            push_list(&mut sql, sessions.iter().copied());
            push_equal(&mut sql, "client_id", of.client().as_str());
            all.push(sql);
        }
    }
    all.extend(older_revocations(act, of));
    all
}

/// Grants of participations that ended before, and of none.
fn older_revocations(act: Scene<'_>, of: &ParticipationsOf) -> Vec<Builder> {
    let at_client = |mut sql: Builder| {
        push_equal(&mut sql, "client_id", of.client().as_str());
        push_offline(&mut sql, act.terms.offline);
        push_begun_before(&mut sql, "begun_at", act.terms.begun_before);
        sql
    };
    match of {
        ParticipationsOf::Client(_) => {
            let mut sql = ending::revocation(act);
            push_equal(&mut sql, "issuer_id", act.issuer.as_str());
            vec![at_client(sql)]
        }
        ParticipationsOf::SubjectAtClient(sub, _) => {
            let mut sql = ending::revocation(act);
            push_equal(&mut sql, "issuer_id", act.issuer.as_str());
            push_equal(&mut sql, "sub", sub.as_str());
            vec![at_client(sql)]
        }
        ParticipationsOf::SessionAtClient(..) | ParticipationsOf::ClientSid(..) | ParticipationsOf::ClientSub(..) => {
            let of_sessions = ending::columns(act.terms.offline).map(|column| {
                let mut sql = ending::revocation(act);
                sql.push(format!(" AND {column} IN "));
                push_session_ids(&mut sql, act.issuer, of);
                at_client(sql)
            });
            let unbound = match of {
                // What a client knows a person by is the provider's own name for them unless a report said otherwise.
                ParticipationsOf::ClientSub(_, sub) => Some(at_client(unbound(act, sub))),
                ParticipationsOf::Client(_)
                | ParticipationsOf::SubjectAtClient(..)
                | ParticipationsOf::SessionAtClient(..)
                | ParticipationsOf::ClientSid(..) => None,
            };
            of_sessions.chain(unbound).collect()
        }
    }
}

fn push_offline(sql: &mut Builder, offline: Offline) {
    match offline {
        Offline::Taken => {}
        Offline::Spared => push_text(sql, " AND NOT offline"),
    }
}

/// A token that is reported stolen before it is registered must never become active: its names are taken by a grant that is revoked already.
async fn remember_token(conn: &mut Conn, context: &Context, act: Scene<'_>, names: &[TokenName]) -> Result<(), StoreError> {
    let grant: GrantId = context.entropy.id(act.now);
    sqlx::query(
        "INSERT INTO grants (id, issuer_id, client_id, sub, session_id, origin_session_id, offline, begun_at, created_at, revoked_at, revoked_by)
         VALUES ($1, $2, '', NULL, NULL, NULL, FALSE, $3, $3, $3, $4)",
    )
    .bind(grant.as_str())
    .bind(act.issuer.as_str())
    .bind(act.now.millis())
    .bind(act.event.as_str())
    .execute(&mut *conn)
    .await?;
    for name in names {
        sqlx::query(
            "INSERT INTO refresh_tokens (id, issuer_id, name, grant_id, created_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        )
        .bind(context.entropy.id::<RefreshTokenId>(act.now).as_str())
        .bind(act.issuer.as_str())
        .bind(stored_name(name))
        .bind(grant.as_str())
        .bind(act.now.millis())
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// The statements of a commit as planners see them, for each shape of target.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    let word = || "1".to_owned();
    let (sub, sid, client, issuer) = (Subject::stored(word()), Sid::stored(word()), ClientId::stored(word()), IssuerId::stored(word()));
    let (event, at) = (EventId::stored(word()), Timestamp::from_millis(1));
    let reach = Reach {
        target: Target::Subject(sub.clone()),
        except: Except::default(),
        begun_before: Some(at),
        offline: Offline::Taken,
        adopt: Adopt::Reopen,
        class: Class::Compromise,
        compromise: true,
        cut_off: None,
        provider: ProviderWord::Due,
    };
    let act = Scene { issuer: &issuer, event: &event, at, now: at, terms: Terms::of(&reach), owned: &[] };
    let told = ToTell {
        participant: ParticipantId::stored(word()),
        session: SessionId::stored(word()),
        client_id: client.clone(),
        sid: None,
        sub: None,
    };
    let ended = Over { sessions: vec![SessionId::stored(word())], participations: 1, told: vec![told], ..Over::default() };
    let targets = [
        ("a session", Resolved::Sessions(SessionsOf::Named { name: SessionName::Sid(sid.clone()), sub: Some(sub.clone()) })),
        ("a subject", Resolved::Sessions(SessionsOf::Subject { sub: sub.clone(), except: Some(sid.clone()) })),
        ("a device", Resolved::Sessions(SessionsOf::Device(word()))),
        ("a subject without a sid", Resolved::Sessions(SessionsOf::Sidless { sub: sub.clone(), sid: sid.clone() })),
        ("a subject at a client", Resolved::Participations(ParticipationsOf::SubjectAtClient(sub.clone(), client.clone()))),
        ("a session at a client", Resolved::Participations(ParticipationsOf::SessionAtClient(sid.clone(), client.clone()))),
        ("a client's sid", Resolved::Participations(ParticipationsOf::ClientSid(client.clone(), sid))),
        ("a client's sub", Resolved::Participations(ParticipationsOf::ClientSub(client, sub))),
    ];
    let mut all = Vec::new();
    for (name, target) in &targets {
        all.extend(revocations(act, target, &ended).into_iter().map(|sql| (*name, sql)));
        all.push((*name, update(act, target)));
        let mut earlier = Builder::new("SELECT id FROM deliveries WHERE state IN ('pending', 'rejected', 'expired')");
        push_earlier_deliveries(&mut earlier, act, target);
        all.push((*name, earlier));
        if let Resolved::Participations(of) = target {
            all.push((*name, owners_of(&issuer, of)));
        }
    }
    all
}

pub(super) async fn insert_event(
    conn: &mut Conn,
    context: &Context,
    act: Scene<'_>,
    trigger: &Trigger,
    target_json: &str,
) -> Result<(), StoreError> {
    let (sub, sid) = match &trigger.target {
        Target::Session(SessionName::Sid(sid)) | Target::SessionAtClient { sid, .. } => (None, Some(sid)),
        Target::Subject(sub)
        | Target::SubjectExcept { sub, .. }
        | Target::SubjectAtClient { sub, .. }
        | Target::Reuse(Reused::Subject(sub))
        | Target::Session(SessionName::Subject(sub)) => (Some(sub), None),
        Target::Session(SessionName::Key(_))
        | Target::Reuse(Reused::Family(_) | Reused::Session(_))
        | Target::Client(_)
        | Target::ClientSid { .. }
        | Target::ClientSub { .. }
        | Target::Device(_)
        | Target::Everyone
        | Target::RefreshToken { .. } => (None, None),
    };
    let new = NewEvent {
        target_json,
        target_sub: sub.map(Subject::as_str),
        target_sid: sid.map(Sid::as_str),
        reason: trigger.reason.as_str(),
        reason_detail: trigger.reason_detail.as_deref(),
        actor: trigger.actor.as_deref(),
        correlation_id: trigger.correlation_id.as_deref(),
        note: trigger.note.as_deref(),
        caller: &trigger.caller.identity,
    };
    ending::insert_event(conn, context, act, new).await
}

/// Deliveries that earlier logouts wrote for what this one names: open ones are waited for, and for a security reason those that were given up are
/// opened again.
pub(super) async fn adopt(conn: &mut Conn, act: Scene<'_>, target: &Resolved, how: Adopt) -> Result<(), StoreError> {
    if matches!(target, Resolved::Grant(_) | Resolved::Nothing) {
        return Ok(());
    }
    let mut opened_again = reopening(act, how);
    match act.terms.provider {
        ProviderWord::Due => {}
        // What it ended itself, or is not to hear of, is not told it after all.
        ProviderWord::Kept | ProviderWord::Known => push_text(&mut opened_again, " AND kind <> 'provider'"),
    }
    push_earlier_deliveries(&mut opened_again, act, target);
    opened_again.build().execute(&mut *conn).await?;
    let mut sql = Builder::new("INSERT INTO adoptions (event_id, delivery_id) SELECT ");
    sql.push("CAST(")
        .push_bind(act.event.as_str().to_owned())
        .push(" AS TEXT), id FROM deliveries WHERE state = 'pending' AND event_id <> ");
    sql.push_bind(act.event.as_str().to_owned());
    push_earlier_deliveries(&mut sql, act, target);
    sql.build().execute(conn).await?;
    Ok(())
}

/// How many participants that were never told one logout tells.
const UNTOLD_MAX: i64 = 1000;

/// Who took part in what ended without a word, by its age or by a provider's list: a security reason tells them all the same, the latest first.
async fn untold(conn: &mut Conn, act: Scene<'_>, target: &Resolved) -> Result<Vec<ToTell>, StoreError> {
    let mut sql = Builder::new("SELECT id, session_id, client_id, sid, sub FROM participants WHERE ended_by IS NOT NULL AND ended_by <> ");
    sql.push_bind(act.event.as_str().to_owned()).push(ending::UNTOLD);
    match target {
        Resolved::Sessions(_) => {
            sql.push(" AND session_id IN (SELECT id FROM sessions WHERE issuer_id = ").push_bind(act.issuer.as_str().to_owned());
            push_sessions_of_target(&mut sql, target);
            push_begun_before(&mut sql, "started_at", act.terms.begun_before);
            sql.push(")");
        }
        Resolved::Participations(of) => {
            push_participations(&mut sql, act.issuer, of);
            push_begun_before(&mut sql, "joined_at", act.terms.begun_before);
        }
        Resolved::Grant(_) | Resolved::Nothing => return Ok(Vec::new()),
    }
    sql.push(" ORDER BY created_at DESC LIMIT ").push_bind(UNTOLD_MAX);
    ending::to_tell(conn, sql).await
}

/// What is opened again of earlier logouts. What an undone logout kept from being told is told by the next one, whatever its reason.
pub(super) const fn opened_again(how: Adopt) -> &'static str {
    match how {
        Adopt::Open => "(state = 'cancelled' AND reason = 'undone')",
        Adopt::Reopen => "(state IN ('pending', 'rejected', 'expired') OR (state = 'cancelled' AND reason IN ('undone', 'operator')))",
    }
}

/// `UPDATE deliveries …` of earlier logouts: goes first, at once, and with new patience, open ones and those that were given up alike. What is in
/// flight just now keeps its lease.
pub(super) fn reopening(act: Scene<'_>, how: Adopt) -> Builder {
    let (class, now) = (class_number(act.terms.class), act.now.millis());
    let mut sql = Builder::new(
        "UPDATE deliveries SET state = 'pending', reason = NULL, settled_at = NULL, retry = FALSE, due_at = CASE WHEN lease_token IS NULL THEN ",
    );
    sql.push_bind(now).push(" ELSE due_at END, reopened_token = lease_token, horizon_at = horizon_ms + ").push_bind(now);
    sql.push(", recoverable = 0, refused = 0, config_fault = 0, redirected = 0, blocked = 0, ours = 0, class = CASE WHEN class > ");
    sql.push_bind(class).push(" THEN ").push_bind(class).push(" ELSE class END, compromise = (compromise OR ");
    sql.push_bind(act.terms.compromise).push(format!(") WHERE {} AND event_id <> ", opened_again(how)));
    sql.push_bind(act.event.as_str().to_owned());
    sql
}

/// ` AND …` over `deliveries`.
fn push_earlier_deliveries(sql: &mut Builder, act: Scene<'_>, target: &Resolved) {
    let issuer = act.issuer.as_str();
    match target {
        Resolved::Sessions(_) => {
            sql.push(" AND session_id IN (SELECT id FROM sessions WHERE issuer_id = ").push_bind(issuer.to_owned());
            push_sessions_of_target(sql, target);
            push_begun_before(sql, "started_at", act.terms.begun_before);
            sql.push(")");
        }
        Resolved::Participations(of) => {
            sql.push(" AND participant_id IN (SELECT id FROM participants WHERE 1 = 1");
            push_participations(sql, act.issuer, of);
            push_begun_before(sql, "joined_at", act.terms.begun_before);
            sql.push(")");
        }
        Resolved::Grant(_) | Resolved::Nothing => push_text(sql, " AND 1 = 0"),
    }
}

pub(super) async fn leave_cut_off(
    conn: &mut Conn,
    context: &Context,
    act: Scene<'_>,
    scope: CutOffScope,
    except: &Except,
    epoch: Option<i64>,
) -> Result<(), StoreError> {
    let cut_off = CutOff {
        scope,
        except: except.clone(),
        not_before: act.at,
        origin: Origin::Event(act.event.clone()),
        compromise: act.terms.compromise,
        offline: act.terms.offline == Offline::Taken,
        epoch,
    };
    cut_offs::leave(conn, context, act.issuer, &cut_off, act.now).await
}

pub(super) fn audit_entry(trigger: &Trigger, target_json: &str, event: &EventId, ended: Ended) -> AuditEntry {
    let mut target: serde_json::Value = serde_json::from_str(target_json).unwrap_or(serde_json::Value::Null);
    // Whom it spared is on the receipt. The trail is kept longer than anybody's name may be, and keeps how many.
    if let (false, Some(members)) = (trigger.except.is_empty(), target.as_object_mut()) {
        let Except { sub, client_id } = &trigger.except;
        members.insert("except".to_owned(), serde_json::json!({ "sub": sub.len(), "client_id": client_id.len() }));
    }
    let detail = serde_json::json!({
        "target": target,
        "reason": trigger.reason.as_str(),
        "reason_detail": trigger.reason_detail,
        "correlation_id": trigger.correlation_id,
        "note": trigger.note,
        "sessions_ended": ended.sessions,
        "participations_ended": ended.participations,
    });
    AuditEntry {
        act: Act::LogoutPosted,
        caller: trigger.caller.clone(),
        actor: trigger.actor.clone(),
        issuer: Some(trigger.issuer.clone()),
        event: Some(event.clone()),
        detail: detail.to_string(),
    }
}
