//! Logouts of more than one transaction can hold.
//!
//! The commit writes the event, a cut-off and a work, whatever the number of sessions: from then on every token registered before is inactive. The
//! work then ends sessions page by page, each page one transaction that does what a smaller logout does at once. The set is what was there before
//! the commit, told by the epoch: the commit counts it up under the issuer's lock, and whatever is registered carries the number it found.
//!
//! A report may touch a session that is over and not ended yet. It is ended then and there, so that the report is judged as after any other logout:
//! a new login under the same name begins anew, and nobody joins what is over.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ending::{self, Ended, Scene, Secrets, Terms, end_listed};
use super::joins::{self, ToTell};
use super::secrets;
use super::{Builder, Conn, count, dialect, name_lock, push_equal, push_list, push_text, subject_lock};
use crate::model::cut_off::CutOffScope;
use crate::model::delivery::Class;
use crate::model::effects::{Adopt, Offline, Opening, OpeningRule, ProviderWord, Reach, Told};
use crate::model::event::{WOULD_TELL_MAX, WouldTell};
use crate::model::session::SessionName;
use crate::model::trigger::{Except, Reused, Target};
use crate::model::{ClientId, EventId, IssuerId, ProviderKey, SessionId, Sid, Subject, Timestamp};
use crate::store::{Context, StoreError};

/// How many sessions one page ends.
const SESSIONS_MAX: usize = 100;
/// How many participations, grants or earlier deliveries one page takes.
const ROWS_MAX: usize = 400;

/// What a work of this kind is to do, as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    of: Of,
    #[serde(default)]
    except_sub: Vec<String>,
    #[serde(default)]
    except_client_id: Vec<String>,
    epoch: i64,
    begun_before: Option<i64>,
    at: i64,
    offline: bool,
    compromise: bool,
    reopen: bool,
    /// It ends sessions by their age: only who asked for it is told.
    #[serde(default)]
    expiry: bool,
    /// The provider is told of each session.
    #[serde(default)]
    provider: bool,
}

/// Whose sessions or participations.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Of {
    Everyone,
    EveryoneAtClients,
    Client {
        client_id: String,
    },
    Subject {
        sub: String,
        except_sid: Option<String>,
    },
    SubjectAtClient {
        sub: String,
        client_id: String,
    },
    Device {
        device_id: String,
    },
    /// The sessions of the work's items.
    Listed,
}

/// What ends first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Sessions,
    Participations,
    Items,
}

/// How far a work has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Position {
    phase: Phase,
    /// The last one that was taken: its client, where the order begins with the client, and its id.
    client_id: String,
    id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    /// What lives is ended.
    Living,
    /// Grants that hang on nothing that lives are revoked.
    Grants,
    /// Deliveries of earlier logouts are adopted.
    Earlier,
    /// Who took part in what ended without a word is told.
    Untold,
}

impl Position {
    pub(super) const START: Self = Self::at(Phase::Living);

    const fn at(phase: Phase) -> Self {
        Self { phase, client_id: String::new(), id: String::new() }
    }
}

impl Of {
    const fn ends(&self) -> Ends {
        match self {
            Self::Everyone | Self::Subject { .. } | Self::Device { .. } => Ends::Sessions,
            Self::EveryoneAtClients | Self::Client { .. } | Self::SubjectAtClient { .. } => Ends::Participations,
            Self::Listed => Ends::Items,
        }
    }
}

impl Plan {
    /// What a reach comes to if it may be of many; none where one transaction holds it, however it is counted.
    pub(super) fn of(reach: &Reach, at: Timestamp, epoch: i64) -> Option<Self> {
        let of = match &reach.target {
            Target::Everyone if reach.except.client_id.is_empty() => Of::Everyone,
            Target::Everyone => Of::EveryoneAtClients,
            Target::Client(client_id) => Of::Client { client_id: client_id.to_string() },
            Target::Subject(sub) | Target::Reuse(Reused::Subject(sub)) => Of::Subject { sub: sub.as_str().to_owned(), except_sid: None },
            Target::SubjectExcept { sub, except_sid } => {
                Of::Subject { sub: sub.as_str().to_owned(), except_sid: Some(except_sid.as_str().to_owned()) }
            }
            Target::SubjectAtClient { sub, client_id } => {
                Of::SubjectAtClient { sub: sub.as_str().to_owned(), client_id: client_id.to_string() }
            }
            Target::Device(device_id) => Of::Device { device_id: device_id.clone() },
            Target::Session(_)
            | Target::SessionAtClient { .. }
            | Target::ClientSid { .. }
            | Target::ClientSub { .. }
            | Target::RefreshToken { .. }
            | Target::Reuse(Reused::Family(_) | Reused::Session(_)) => {
                return None;
            }
        };
        let Except { sub, client_id } = &reach.except;
        Some(Self {
            of,
            except_sub: sub.iter().map(|sub| sub.as_str().to_owned()).collect(),
            except_client_id: client_id.iter().map(ToString::to_string).collect(),
            epoch,
            begun_before: reach.begun_before.map(Timestamp::millis),
            at: at.millis(),
            offline: reach.offline == Offline::Taken,
            compromise: reach.compromise,
            reopen: reach.adopt == Adopt::Reopen,
            expiry: false,
            provider: reach.provider == ProviderWord::Due,
        })
    }

    /// A list of sessions that end by their age.
    pub(super) const fn listed_by_age(at: Timestamp) -> Self {
        Self {
            of: Of::Listed,
            except_sub: Vec::new(),
            except_client_id: Vec::new(),
            epoch: 0,
            begun_before: None,
            at: at.millis(),
            offline: false,
            compromise: false,
            reopen: false,
            expiry: true,
            // It was the provider that no longer listed them.
            provider: false,
        }
    }

    /// Whether it is never one transaction's, however few they are.
    pub(super) const fn is_always_of_many(reach: &Reach) -> bool {
        matches!(reach.target, Target::Everyone) || !reach.except.is_empty()
    }

    /// The cut-off that makes it effective at once, where the target itself leaves none.
    pub(super) fn cut_off(&self, reach: &Reach) -> Option<CutOffScope> {
        match &self.of {
            Of::Device { device_id } => Some(CutOffScope::Device(device_id.clone())),
            Of::Everyone | Of::EveryoneAtClients | Of::Client { .. } | Of::Subject { .. } | Of::SubjectAtClient { .. } | Of::Listed => {
                reach.cut_off.clone()
            }
        }
    }

    /// Which of the rules says how its deliveries begin.
    pub(super) const fn is_by_age(&self) -> bool {
        self.expiry
    }

    const fn adopt(&self) -> Adopt {
        if self.reopen { Adopt::Reopen } else { Adopt::Open }
    }

    fn terms(&self) -> Terms {
        Terms {
            begun_before: self.begun_before.map(Timestamp::from_millis),
            offline: if self.offline { Offline::Taken } else { Offline::Spared },
            class: Class::Bulk,
            compromise: self.compromise,
            provider: if self.provider { ProviderWord::Due } else { ProviderWord::Known },
            secrets: match &self.of {
                // Whose they are is known as their sessions are found.
                Of::Device { .. } if self.compromise => Secrets::Changed,
                // Changed with the commit, or nobody's.
                Of::Device { .. }
                | Of::Everyone
                | Of::EveryoneAtClients
                | Of::Client { .. }
                | Of::Subject { .. }
                | Of::SubjectAtClient { .. }
                | Of::Listed => Secrets::Kept,
            },
        }
    }

    /// Changes the secrets of those whom a compromise is about, as far as they are named by its target.
    pub(super) async fn change_secrets(&self, conn: &mut Conn, act: Scene<'_>, reach: &Reach) -> Result<(), StoreError> {
        if !self.compromise {
            return Ok(());
        }
        match &self.of {
            Of::Everyone => secrets::change_all(conn, act.issuer, act.event, &reach.except.sub).await,
            Of::Subject { sub, .. } => secrets::change(conn, act, [&Subject::stored(sub.clone())].into_iter()).await,
            // A secret is the subject's and not its clients'.
            Of::EveryoneAtClients | Of::Client { .. } | Of::SubjectAtClient { .. } | Of::Device { .. } | Of::Listed => Ok(()),
        }
    }
}

/// Whose work a page belongs to.
#[derive(Clone, Copy)]
pub(super) struct Page<'a> {
    pub(super) issuer: &'a IssuerId,
    pub(super) event: &'a EventId,
    pub(super) work: &'a str,
    pub(super) now: Timestamp,
    pub(super) opening: OpeningRule,
}

impl<'a> Page<'a> {
    fn scene(self, plan: &Plan, owned: &'a [Subject]) -> Scene<'a> {
        let Page { issuer, event, now, .. } = self;
        Scene { issuer, event, at: Timestamp::from_millis(plan.at), now, terms: plan.terms(), owned }
    }
}

/// Does one page, and says what ended and where the next begins; nowhere when everything is done.
pub(super) async fn page(conn: &mut Conn, context: &Context, page: Page<'_>, plan: &Plan, position: &Position) -> Paged {
    dialect::share_issuer(conn, page.issuer).await?;
    let (ended, next) = match (position.phase, plan.of.ends()) {
        (Phase::Living, Ends::Sessions) => sessions_page(conn, context, page, plan, position).await?,
        (Phase::Living, Ends::Participations) => participations_page(conn, context, page, plan, position).await?,
        (Phase::Living, Ends::Items) => return items_page(conn, context, page, plan, position).await,
        (Phase::Grants, _) => grants_page(conn, context, page, plan, position).await?,
        (Phase::Earlier, _) => (Ended::default(), earlier_page(conn, page, plan, position).await?),
        (Phase::Untold, _) => (Ended::default(), untold_page(conn, context, page, plan, position).await?),
    };
    if ended != Ended::default() {
        ending::count_on_receipt(conn, page.event, ended).await?;
    }
    let next_phase = match position.phase {
        Phase::Living => Some(Position::at(Phase::Grants)),
        Phase::Grants => Some(Position::at(Phase::Earlier)),
        Phase::Earlier if plan.reopen => Some(Position::at(Phase::Untold)),
        Phase::Earlier | Phase::Untold => None,
    };
    Ok((ended, next.or(next_phase)))
}

pub(super) type Paged = Result<(Ended, Option<Position>), StoreError>;

/// A session as a page finds it: id, `sub`, `sid`, the provider's key.
type Found = (String, Option<String>, Option<String>, Option<String>);

async fn sessions_page(conn: &mut Conn, context: &Context, page: Page<'_>, plan: &Plan, position: &Position) -> Paged {
    let found: Vec<Found> = next_sessions(page.issuer, plan, position).build_query_as().fetch_all(&mut *conn).await?;
    let next = full(&found, SESSIONS_MAX).map(|(id, ..)| Position { id: id.clone(), ..Position::START });
    Ok((end_found(conn, context, page, plan, found).await?, next))
}

fn next_sessions(issuer: &IssuerId, plan: &Plan, position: &Position) -> Builder {
    let mut sql = Builder::new("SELECT id, sub, sid, provider_key FROM sessions WHERE ");
    push_sessions(&mut sql, issuer, plan);
    sql.push(" AND id > ").push_bind(position.id.clone()).push(" ORDER BY id LIMIT ").push_bind(limit(SESSIONS_MAX));
    sql
}

/// Locks what reports of these sessions lock, and ends those that still live.
async fn end_found(conn: &mut Conn, context: &Context, page: Page<'_>, plan: &Plan, found: Vec<Found>) -> Result<Ended, StoreError> {
    let owned = own_people(conn, page.issuer, &found).await?;
    let ids: Vec<SessionId> = found.into_iter().map(|(id, ..)| SessionId::stored(id)).collect();
    end_listed(conn, context, page.scene(plan, &owned), &ids, page.opening).await
}

async fn own_people(conn: &mut Conn, issuer: &IssuerId, found: &[Found]) -> Result<Vec<Subject>, StoreError> {
    let subjects: BTreeSet<&String> = found.iter().filter_map(|(_, sub, ..)| sub.as_ref()).collect();
    let owned: Vec<Subject> = subjects.into_iter().map(|sub| Subject::stored(sub.clone())).collect();
    let nameless = found.iter().filter(|(_, sub, ..)| sub.is_none()).filter_map(|(_, _, sid, key)| match (sid, key) {
        (Some(sid), _) => Some(name_lock(&SessionName::Sid(Sid::stored(sid.clone())))),
        (None, Some(key)) => Some(name_lock(&SessionName::Key(ProviderKey::stored(key.clone())))),
        (None, None) => None,
    });
    let locks: Vec<String> = owned.iter().map(subject_lock).chain(nameless).collect();
    dialect::own_names(conn, issuer, &locks).await?;
    Ok(owned)
}

/// The sessions a work names one by one.
async fn items_page(conn: &mut Conn, context: &Context, page: Page<'_>, plan: &Plan, position: &Position) -> Paged {
    let number: i64 = position.id.parse().unwrap_or(0);
    let items: Option<String> = sqlx::query_scalar("SELECT items FROM work_items WHERE work_id = $1 AND number = $2")
        .bind(page.work)
        .bind(number)
        .fetch_optional(&mut *conn)
        .await?;
    let Some(items) = items else { return Ok((Ended::default(), None)) };
    let ids: Vec<String> = serde_json::from_str(&items).map_err(|_| super::corrupt("work_items", "items"))?;
    // A report that came first wins.
    let mut sql = Builder::new("SELECT id, sub, sid, provider_key FROM sessions WHERE ended_at IS NULL AND reported_at < ");
    sql.push_bind(plan.at).push(" AND id IN ");
    push_list(&mut sql, ids.iter().map(String::as_str));
    let found: Vec<Found> = sql.build_query_as().fetch_all(&mut *conn).await?;
    let ended = end_found(conn, context, page, plan, found).await?;
    ending::count_on_receipt(conn, page.event, ended).await?;
    Ok((ended, Some(Position { id: (number + 1).to_string(), ..Position::START })))
}

async fn participations_page(conn: &mut Conn, context: &Context, page: Page<'_>, plan: &Plan, position: &Position) -> Paged {
    let found: Vec<(String, String, Option<String>)> =
        next_participations(page.issuer, plan, position).build_query_as().fetch_all(&mut *conn).await?;
    let next =
        full(&found, ROWS_MAX).map(|(id, client_id, _)| Position { phase: Phase::Living, client_id: client_id.clone(), id: id.clone() });
    Ok((end_participations(conn, context, page, plan, found).await?, next))
}

fn next_participations(issuer: &IssuerId, plan: &Plan, position: &Position) -> Builder {
    let mut sql = Builder::new("SELECT p.id, p.client_id, s.sub ");
    push_participations(&mut sql, issuer, plan);
    sql.push(" AND (p.client_id, p.id) > (").push_bind(position.client_id.clone()).push(", ").push_bind(position.id.clone());
    sql.push(") ORDER BY p.client_id, p.id LIMIT ").push_bind(limit(ROWS_MAX));
    sql
}

/// Ends participations that still live, while their sessions go on: id, client, whose.
async fn end_participations(
    conn: &mut Conn,
    context: &Context,
    page: Page<'_>,
    plan: &Plan,
    found: Vec<(String, String, Option<String>)>,
) -> Result<Ended, StoreError> {
    if found.is_empty() {
        return Ok(Ended::default());
    }
    let subjects: BTreeSet<&String> = found.iter().filter_map(|(.., sub)| sub.as_ref()).collect();
    let locks: Vec<String> = subjects.into_iter().map(|sub| subject_lock(&Subject::stored(sub.clone()))).collect();
    dialect::own_names(conn, page.issuer, &locks).await?;
    let act = page.scene(plan, &[]);
    let mut sql = ending::participants_update(act);
    sql.push(" AND id IN ");
    push_list(&mut sql, found.iter().map(|(id, ..)| id.as_str()));
    let told = ending::ended_participants(conn, sql).await?;
    let tokens = ending::revoked(conn, context, act, revocations_at_clients(act, &told)).await?;
    joins::write_deliveries(conn, context, ending::duty(act), &told, page.opening).await?;
    Ok(Ended { sessions: 0, participations: told.len() as u64, tokens })
}

/// The grants of ended participations, whatever their age.
fn revocations_at_clients(act: Scene<'_>, told: &[ToTell]) -> Vec<Builder> {
    if told.is_empty() {
        return Vec::new();
    }
    let of = |column: &'static str| {
        let mut sql = ending::revocation(act);
        sql.push(format!(" AND ({column}, client_id) IN ("));
        sql.push_values(told, |mut row, one| {
            row.push_bind(one.session.as_str().to_owned()).push_bind(one.client_id.as_str().to_owned());
        });
        sql.push(")");
        sql
    };
    ending::columns(act.terms.offline).map(of).collect()
}

async fn grants_page(conn: &mut Conn, context: &Context, page: Page<'_>, plan: &Plan, position: &Position) -> Paged {
    let found: Vec<(String, String)> = next_grants(page.issuer, plan, position).build_query_as().fetch_all(&mut *conn).await?;
    if found.is_empty() {
        return Ok((Ended::default(), None));
    }
    let act = page.scene(plan, &[]);
    let mut revocation = ending::revocation(act);
    revocation.push(" AND id IN ");
    push_list(&mut revocation, found.iter().map(|(id, _)| id.as_str()));
    let tokens = ending::revoked(conn, context, act, vec![revocation]).await?;
    let next =
        full(&found, ROWS_MAX).map(|(id, client_id)| Position { phase: Phase::Grants, client_id: client_id.clone(), id: id.clone() });
    Ok((Ended { tokens, ..Ended::default() }, next))
}

fn next_grants(issuer: &IssuerId, plan: &Plan, position: &Position) -> Builder {
    let mut sql = Builder::new("SELECT id, client_id FROM grants WHERE revoked_at IS NULL AND issuer_id = ");
    sql.push_bind(issuer.as_str().to_owned());
    push_grants(&mut sql, issuer, plan);
    sql.push(" AND (client_id, id) > (").push_bind(position.client_id.clone()).push(", ").push_bind(position.id.clone());
    sql.push(") ORDER BY client_id, id LIMIT ").push_bind(limit(ROWS_MAX));
    sql
}

async fn earlier_page(conn: &mut Conn, page: Page<'_>, plan: &Plan, position: &Position) -> Result<Option<Position>, StoreError> {
    let found: Vec<String> = next_earlier(page.issuer, page.event, plan, position).build_query_scalar().fetch_all(&mut *conn).await?;
    if found.is_empty() {
        return Ok(None);
    }
    let mut sql = super::commit::reopening(page.scene(plan, &[]), plan.adopt());
    sql.push(" AND id IN ");
    push_list(&mut sql, found.iter().map(String::as_str));
    sql.build().execute(&mut *conn).await?;
    let mut sql = Builder::new("INSERT INTO adoptions (event_id, delivery_id) SELECT CAST(");
    sql.push_bind(page.event.as_str().to_owned()).push(" AS TEXT), id FROM deliveries WHERE state = 'pending' AND id IN ");
    push_list(&mut sql, found.iter().map(String::as_str));
    sql.push(" ON CONFLICT DO NOTHING");
    sql.build().execute(&mut *conn).await?;
    Ok(full(&found, ROWS_MAX).map(|id| Position { id: id.clone(), ..Position::at(Phase::Earlier) }))
}

fn next_earlier(issuer: &IssuerId, event: &EventId, plan: &Plan, position: &Position) -> Builder {
    let mut sql = Builder::new("SELECT id FROM deliveries WHERE issuer_id = ");
    sql.push_bind(issuer.as_str().to_owned());
    push_earlier(&mut sql, issuer, event, plan);
    sql.push(" AND id > ").push_bind(position.id.clone()).push(" ORDER BY id LIMIT ").push_bind(limit(ROWS_MAX));
    sql
}

/// How many participants a page looks at, to be told or not.
const LOOKED_AT_MAX: usize = 2000;

/// Looks at participants one after the other, whoever's they are: those that were never told are too few to be found by an index of their own.
async fn untold_page(
    conn: &mut Conn,
    context: &Context,
    page: Page<'_>,
    plan: &Plan,
    position: &Position,
) -> Result<Option<Position>, StoreError> {
    let last: Option<String> =
        sqlx::query_scalar("SELECT max(id) FROM (SELECT id FROM participants WHERE id > $1 ORDER BY id LIMIT $2) AS looked")
            .bind(&position.id)
            .bind(limit(LOOKED_AT_MAX))
            .fetch_one(&mut *conn)
            .await?;
    let Some(last) = last else { return Ok(None) };
    let mut sql = Builder::new("SELECT id, session_id, client_id, sid, sub FROM participants WHERE id > ");
    sql.push_bind(position.id.clone()).push(" AND id <= ").push_bind(last.clone());
    push_untold(&mut sql, page, plan);
    let told = ending::to_tell(conn, sql).await?;
    joins::write_deliveries(conn, context, ending::duty(page.scene(plan, &[])), &told, page.opening).await?;
    Ok(Some(Position { id: last, ..Position::at(Phase::Untold) }))
}

/// ` AND …` over `participants`: ended without a word before this, and of what it names.
fn push_untold(sql: &mut Builder, page: Page<'_>, plan: &Plan) {
    sql.push(" AND issuer_id = ").push_bind(page.issuer.as_str().to_owned());
    sql.push(" AND ended_by IS NOT NULL AND ended_by <> ").push_bind(page.event.as_str().to_owned());
    sql.push(" AND epoch < ").push_bind(plan.epoch).push(ending::UNTOLD);
    push_spared(sql, "client_id", &plan.except_client_id);
    match &plan.of {
        Of::Client { client_id } | Of::SubjectAtClient { client_id, .. } => push_equal(sql, "client_id", client_id),
        Of::Everyone | Of::EveryoneAtClients | Of::Subject { .. } | Of::Device { .. } | Of::Listed => {}
    }
    push_text(sql, " AND ");
    push_of_sessions(sql, "session_id", page.issuer, plan);
}

/// The last of a page that is full: there may be more behind it.
fn full<T>(found: &[T], max: usize) -> Option<&T> {
    found.last().filter(|_| found.len() >= max)
}

fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// The live sessions it names that were registered before it.
fn push_sessions(sql: &mut Builder, issuer: &IssuerId, plan: &Plan) {
    sql.push("ended_at IS NULL AND issuer_id = ").push_bind(issuer.as_str().to_owned());
    sql.push(" AND epoch < ").push_bind(plan.epoch);
    if let Some(bound) = plan.begun_before {
        sql.push(" AND started_at < ").push_bind(bound);
    }
    push_spared(sql, "sub", &plan.except_sub);
    match &plan.of {
        Of::Everyone => {}
        Of::Subject { sub, except_sid } => {
            push_equal(sql, "sub", sub);
            push_other_than(sql, "sid", except_sid.as_deref());
        }
        Of::Device { device_id } => push_equal(sql, "device_id", device_id),
        Of::EveryoneAtClients | Of::Client { .. } | Of::SubjectAtClient { .. } | Of::Listed => push_text(sql, " AND 1 = 0"),
    }
}

/// `FROM …`: the live participations it names that were registered before it, as `p`, and their sessions as `s`.
fn push_participations(sql: &mut Builder, issuer: &IssuerId, plan: &Plan) {
    sql.push("FROM participants AS p JOIN sessions AS s ON s.id = p.session_id WHERE p.ended_at IS NULL AND p.issuer_id = ");
    sql.push_bind(issuer.as_str().to_owned()).push(" AND p.epoch < ").push_bind(plan.epoch);
    if let Some(bound) = plan.begun_before {
        sql.push(" AND p.joined_at < ").push_bind(bound);
    }
    push_spared(sql, "s.sub", &plan.except_sub);
    push_spared(sql, "p.client_id", &plan.except_client_id);
    match &plan.of {
        Of::EveryoneAtClients => {}
        Of::Client { client_id } => push_equal(sql, "p.client_id", client_id),
        Of::SubjectAtClient { sub, client_id } => {
            push_equal(sql, "p.client_id", client_id);
            push_equal(sql, "s.sub", sub);
        }
        Of::Everyone | Of::Subject { .. } | Of::Device { .. } | Of::Listed => push_text(sql, " AND 1 = 0"),
    }
}

/// ` AND …` over good `grants`: those it names that hang on no session it ends.
fn push_grants(sql: &mut Builder, issuer: &IssuerId, plan: &Plan) {
    sql.push(" AND epoch < ").push_bind(plan.epoch);
    if !plan.offline {
        push_text(sql, " AND NOT offline");
    }
    push_spared(sql, "sub", &plan.except_sub);
    push_spared(sql, "client_id", &plan.except_client_id);
    match &plan.of {
        Of::Everyone => {
            push_text(sql, " AND session_id IS NULL");
            push_unbound_or_from(sql, issuer, plan);
        }
        Of::Subject { sub, .. } => {
            push_equal(sql, "sub", sub);
            push_text(sql, " AND session_id IS NULL");
            push_unbound_or_from(sql, issuer, plan);
        }
        Of::Device { .. } => {
            push_text(sql, " AND offline AND ");
            push_of_sessions(sql, "origin_session_id", issuer, plan);
        }
        Of::EveryoneAtClients => push_begun(sql, plan),
        Of::Client { client_id } => {
            push_equal(sql, "client_id", client_id);
            push_begun(sql, plan);
        }
        Of::SubjectAtClient { sub, client_id } => {
            push_equal(sql, "client_id", client_id);
            push_equal(sql, "sub", sub);
            push_begun(sql, plan);
        }
        Of::Listed => push_text(sql, " AND 1 = 0"),
    }
}

fn push_begun(sql: &mut Builder, plan: &Plan) {
    if let Some(bound) = plan.begun_before {
        sql.push(" AND begun_at < ").push_bind(bound);
    }
}

/// Of no session at all and begun in time, or offline ones from a session it names, live or ended.
fn push_unbound_or_from(sql: &mut Builder, issuer: &IssuerId, plan: &Plan) {
    sql.push(" AND ((origin_session_id IS NULL");
    push_begun(sql, plan);
    sql.push(") OR ");
    push_of_sessions(sql, "origin_session_id", issuer, plan);
    sql.push(")");
}

/// Whether a column holds one of the sessions it names, live or ended: looked up one by one where it names everybody's, and else listed.
fn push_of_sessions(sql: &mut Builder, column: &'static str, issuer: &IssuerId, plan: &Plan) {
    match &plan.of {
        Of::Everyone | Of::EveryoneAtClients | Of::Client { .. } | Of::Listed => {
            sql.push(format!("EXISTS (SELECT 1 FROM sessions WHERE id = {column} AND issuer_id = "));
        }
        Of::Subject { .. } | Of::SubjectAtClient { .. } | Of::Device { .. } => {
            sql.push(format!("{column} IN (SELECT id FROM sessions WHERE issuer_id = "));
        }
    }
    sql.push_bind(issuer.as_str().to_owned());
    if let Some(bound) = plan.begun_before {
        sql.push(" AND started_at < ").push_bind(bound);
    }
    push_spared(sql, "sub", &plan.except_sub);
    match &plan.of {
        Of::Everyone | Of::EveryoneAtClients | Of::Client { .. } | Of::Listed => {}
        Of::Subject { sub, except_sid } => {
            push_equal(sql, "sub", sub);
            push_other_than(sql, "sid", except_sid.as_deref());
        }
        Of::SubjectAtClient { sub, .. } => push_equal(sql, "sub", sub),
        Of::Device { device_id } => push_equal(sql, "device_id", device_id),
    }
    sql.push(")");
}

/// ` AND …` over `deliveries`: what earlier logouts wrote for what it names, open, and given up where that is opened again.
fn push_earlier(sql: &mut Builder, issuer: &IssuerId, event: &EventId, plan: &Plan) {
    // In these words the index is found by SQLite, which does not reason about them.
    push_text(sql, " AND state IN ('pending', 'rejected', 'expired', 'cancelled')");
    sql.push(format!(" AND (state = 'pending' OR {})", super::commit::opened_again(plan.adopt())));
    sql.push(" AND event_id <> ").push_bind(event.as_str().to_owned());
    // Whoever ended it, and when: it is about somebody who was in before.
    sql.push(" AND (EXISTS (SELECT 1 FROM participants AS p WHERE p.id = participant_id AND p.epoch < ").push_bind(plan.epoch).push(")");
    if plan.of.ends() == Ends::Sessions {
        sql.push(" OR (kind = 'provider' AND EXISTS (SELECT 1 FROM sessions AS p WHERE p.id = session_id AND p.epoch < ");
        sql.push_bind(plan.epoch).push("))");
    }
    sql.push(")");
    if !plan.provider {
        push_text(sql, " AND (kind <> 'provider' OR state = 'pending')");
    }
    push_spared(sql, "client_id", &plan.except_client_id);
    match &plan.of {
        Of::Everyone | Of::EveryoneAtClients | Of::Listed => {}
        Of::Client { client_id } | Of::SubjectAtClient { client_id, .. } => push_equal(sql, "client_id", client_id),
        Of::Subject { .. } | Of::Device { .. } => {}
    }
    let by_session = match &plan.of {
        Of::Subject { .. } | Of::Device { .. } | Of::SubjectAtClient { .. } => true,
        Of::Everyone | Of::EveryoneAtClients | Of::Client { .. } => !plan.except_sub.is_empty() || plan.begun_before.is_some(),
        Of::Listed => false,
    };
    if by_session {
        push_text(sql, " AND ");
        push_of_sessions(sql, "session_id", issuer, plan);
    }
}

fn push_spared(sql: &mut Builder, column: &'static str, names: &[String]) {
    if !names.is_empty() {
        sql.push(format!(" AND ({column} IS NULL OR {column} NOT IN "));
        push_list(sql, names.iter().map(String::as_str));
        sql.push(")");
    }
}

fn push_other_than(sql: &mut Builder, column: &'static str, name: Option<&str>) {
    if let Some(name) = name {
        sql.push(format!(" AND ({column} IS NULL OR {column} <> ")).push_bind(name.to_owned()).push(")");
    }
}

/// Ends those of the named sessions, and of the participations in them, that an open work of the issuer has not come to yet. Their names and subjects
/// are locked.
pub(super) async fn overtake(
    conn: &mut Conn,
    context: &Context,
    issuer: &IssuerId,
    names: &[&SessionName],
    owned: &[Subject],
    opening: OpeningRule,
    now: Timestamp,
) -> Result<(), StoreError> {
    let open: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT id, event_id, plan FROM works
          WHERE issuer_id = $1 AND done_at IS NULL AND kind = 'expand' AND event_id IS NOT NULL ORDER BY created_at, id",
    )
    .bind(issuer.as_str())
    .fetch_all(&mut *conn)
    .await?;
    for (work, event, plan) in &open {
        let plan: Plan = serde_json::from_str(plan).map_err(|_| super::corrupt("works", "plan"))?;
        let event = EventId::stored(event.clone());
        let page = Page { issuer, event: &event, work, now, opening };
        for names in names.chunks(super::ROWS_MAX) {
            let ended = overtake_named(conn, context, page, &plan, names, owned).await?;
            if ended != Ended::default() {
                ending::count_on_receipt(conn, &event, ended).await?;
            }
        }
    }
    Ok(())
}

async fn overtake_named(
    conn: &mut Conn,
    context: &Context,
    page: Page<'_>,
    plan: &Plan,
    names: &[&SessionName],
    owned: &[Subject],
) -> Result<Ended, StoreError> {
    match plan.of.ends() {
        Ends::Sessions => {
            let mut sql = Builder::new("SELECT id FROM sessions WHERE ");
            push_sessions(&mut sql, page.issuer, plan);
            push_named(&mut sql, "", names);
            let ids: Vec<String> = sql.build_query_scalar().fetch_all(&mut *conn).await?;
            let ids: Vec<SessionId> = ids.into_iter().map(SessionId::stored).collect();
            end_listed(conn, context, page.scene(plan, owned), &ids, page.opening).await
        }
        Ends::Participations => {
            let mut sql = Builder::new("SELECT p.id, p.client_id, CAST(NULL AS TEXT) ");
            push_participations(&mut sql, page.issuer, plan);
            push_named(&mut sql, "s.", names);
            let found = sql.build_query_as().fetch_all(&mut *conn).await?;
            end_participations(conn, context, page, plan, found).await
        }
        // What ends by its age was not named by anybody: a report that comes first wins.
        Ends::Items => Ok(Ended::default()),
    }
}

/// ` AND …` over live `sessions`: one of these names.
fn push_named(sql: &mut Builder, prefix: &str, names: &[&SessionName]) {
    sql.push(" AND (1 = 0");
    let sids: Vec<&str> =
        names.iter().filter_map(|name| if let SessionName::Sid(sid) = name { Some(sid.as_str()) } else { None }).collect();
    let keys: Vec<&str> =
        names.iter().filter_map(|name| if let SessionName::Key(key) = name { Some(key.as_str()) } else { None }).collect();
    let subs: Vec<&str> =
        names.iter().filter_map(|name| if let SessionName::Subject(sub) = name { Some(sub.as_str()) } else { None }).collect();
    for (column, names) in [("sid", sids), ("provider_key", keys)] {
        if !names.is_empty() {
            sql.push(format!(" OR {prefix}{column} IN "));
            push_list(sql, names);
        }
    }
    if !subs.is_empty() {
        sql.push(format!(" OR ({prefix}sid IS NULL AND {prefix}provider_key IS NULL AND {prefix}sub IN "));
        push_list(sql, subs);
        sql.push(")");
    }
    sql.push(")");
}

/// What a rehearsal counts.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) ended: Ended,
    pub(super) pending: u64,
    pub(super) unreachable: u64,
    pub(super) adopted: u64,
    pub(super) would_tell: Vec<WouldTell>,
}

impl Counted {
    /// Deliveries to one client, which follow each other.
    fn add(&mut self, client_id: &ClientId, pending: u64, unreachable: u64) {
        self.pending += pending;
        self.unreachable += unreachable;
        if self.would_tell.last().is_none_or(|last| last.client_id != *client_id) && self.would_tell.len() < WOULD_TELL_MAX {
            self.would_tell.push(WouldTell { client_id: client_id.clone(), pending: 0, unreachable: 0 });
        }
        if let Some(last) = self.would_tell.last_mut().filter(|last| last.client_id == *client_id) {
            last.pending += pending;
            last.unreachable += unreachable;
        }
    }
}

/// How many sessions or participations it names, counted up to a limit.
pub(super) async fn named(conn: &mut Conn, issuer: &IssuerId, plan: &Plan, most: usize) -> Result<u64, StoreError> {
    let mut sql = Builder::new("SELECT CAST(count(*) AS BIGINT) FROM (SELECT ");
    push_living(&mut sql, issuer, plan, "id", "p.id");
    sql.push(" LIMIT ").push_bind(limit(most)).push(") AS named");
    Ok(count(sql.build_query_scalar().fetch_one(conn).await?))
}

/// `… FROM …`: what lives of what it names.
fn push_living(sql: &mut Builder, issuer: &IssuerId, plan: &Plan, of_sessions: &'static str, of_participations: &'static str) {
    match plan.of.ends() {
        Ends::Sessions | Ends::Items => {
            sql.push(of_sessions).push(" FROM sessions WHERE ");
            push_sessions(sql, issuer, plan);
        }
        Ends::Participations => {
            sql.push(of_participations).push(" ");
            push_participations(sql, issuer, plan);
        }
    }
}

/// Counts exactly what the pages would do, without doing it.
pub(super) async fn rehearsed(conn: &mut Conn, page: Page<'_>, plan: &Plan) -> Result<Counted, StoreError> {
    let lives = named(conn, page.issuer, plan, usize::MAX).await?;
    let mut counted = Counted::default();
    match plan.of.ends() {
        Ends::Sessions | Ends::Items => counted.ended.sessions = lives,
        Ends::Participations => counted.ended.participations = lives,
    }
    counted.ended.tokens = tokens(conn, page, plan).await?;
    let mut sql = Builder::new("SELECT CAST(count(*) AS BIGINT) FROM deliveries WHERE issuer_id = ");
    sql.push_bind(page.issuer.as_str().to_owned());
    push_earlier(&mut sql, page.issuer, page.event, plan);
    push_text(&mut sql, " AND kind <> 'provider'");
    counted.adopted = count(sql.build_query_scalar().fetch_one(&mut *conn).await?);
    let groups = told(conn, page, plan).await?;
    let mut wanted: Vec<_> = groups.iter().map(|(client, ..)| (page.issuer.clone(), ClientId::stored(client.clone()))).collect();
    wanted.dedup();
    let clients = super::registry::clients_of(conn, &wanted).await?;
    let (sid, sub) = (Sid::stored("-".to_owned()), Subject::stored("-".to_owned()));
    for (client_id, has_sid, has_sub, number) in groups {
        let client_id = ClientId::stored(client_id);
        let client = clients.iter().find(|client| client.client_id == client_id);
        let names = Told { client_id: &client_id, sid: has_sid.then_some(&sid), sub: has_sub.then_some(&sub) };
        match (page.opening)(&names, client, page.now) {
            Opening::Pending { .. } => counted.add(&client_id, count(number), 0),
            Opening::Unreachable(_) => counted.add(&client_id, 0, count(number)),
            Opening::Untold => {}
        }
    }
    Ok(counted)
}

/// Who would be told: by client, and by which names.
async fn told(conn: &mut Conn, page: Page<'_>, plan: &Plan) -> Result<Vec<(String, bool, bool, i64)>, StoreError> {
    let mut sql = Builder::new("SELECT p.client_id, p.sid <> '', p.sub IS NOT NULL, CAST(count(*) AS BIGINT) ");
    match plan.of.ends() {
        Ends::Sessions | Ends::Items => {
            sql.push("FROM participants AS p WHERE p.ended_at IS NULL AND p.session_id IN (SELECT id FROM sessions WHERE ");
            push_sessions(&mut sql, page.issuer, plan);
            sql.push(")");
        }
        Ends::Participations => push_participations(&mut sql, page.issuer, plan),
    }
    sql.push(" GROUP BY 1, 2, 3 ORDER BY 1");
    let mut groups: Vec<(String, bool, bool, i64)> = sql.build_query_as().fetch_all(&mut *conn).await?;
    if plan.reopen {
        let mut sql = Builder::new(
            "SELECT client_id, sid <> '', sub IS NOT NULL, CAST(count(*) AS BIGINT) FROM participants WHERE ended_at IS NOT NULL",
        );
        push_untold(&mut sql, page, plan);
        sql.push(" GROUP BY 1, 2, 3 ORDER BY 1");
        groups.extend(sql.build_query_as::<(String, bool, bool, i64)>().fetch_all(conn).await?);
        groups.sort();
    }
    Ok(groups)
}

/// How many refresh tokens are good that would be no more.
async fn tokens(conn: &mut Conn, page: Page<'_>, plan: &Plan) -> Result<u64, StoreError> {
    let mut sql = Builder::new(
        "SELECT CAST(count(*) AS BIGINT) FROM refresh_tokens WHERE superseded_at IS NULL AND (expires_at IS NULL OR expires_at > ",
    );
    sql.push_bind(page.now.millis()).push(") AND grant_id IN (SELECT id FROM grants WHERE revoked_at IS NULL AND issuer_id = ");
    sql.push_bind(page.issuer.as_str().to_owned()).push(" AND (1 = 0");
    for column in ending::columns(plan.terms().offline) {
        match plan.of.ends() {
            Ends::Sessions | Ends::Items => {
                sql.push(format!(" OR {column} IN (SELECT "));
                push_living(&mut sql, page.issuer, plan, "id", "");
            }
            Ends::Participations => {
                sql.push(format!(" OR ({column}, client_id) IN (SELECT "));
                push_living(&mut sql, page.issuer, plan, "", "p.session_id, p.client_id");
            }
        }
        sql.push(")");
    }
    sql.push(" OR (1 = 1");
    push_grants(&mut sql, page.issuer, plan);
    sql.push(")))");
    Ok(count(sql.build_query_scalar().fetch_one(conn).await?))
}

/// The statements of a page as planners see them.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    let (issuer, event, at) = (IssuerId::stored("1".to_owned()), EventId::stored("1".to_owned()), Timestamp::from_millis(1));
    let reach = |target, except| Reach {
        target,
        except,
        begun_before: Some(at),
        offline: Offline::Taken,
        adopt: Adopt::Reopen,
        class: Class::Bulk,
        compromise: true,
        cut_off: None,
        provider: ProviderWord::Due,
    };
    let clients = Except { sub: Vec::new(), client_id: vec![ClientId::stored("1".to_owned())] };
    let everyone = Plan::of(&reach(Target::Everyone, Except::default()), at, 1);
    let at_clients = Plan::of(&reach(Target::Everyone, clients), at, 1);
    let of_client = Plan::of(&reach(Target::Client(ClientId::stored("1".to_owned())), Except::default()), at, 1);
    let mut all = Vec::new();
    for plan in [everyone, at_clients, of_client].into_iter().flatten() {
        match plan.of.ends() {
            Ends::Sessions | Ends::Items => all.push(("a page of sessions", next_sessions(&issuer, &plan, &Position::START))),
            Ends::Participations => all.push(("a page of participations", next_participations(&issuer, &plan, &Position::START))),
        }
        all.push(("a page of grants", next_grants(&issuer, &plan, &Position::START)));
        all.push(("a page of earlier deliveries", next_earlier(&issuer, &event, &plan, &Position::START)));
    }
    all
}
