//! Families of refresh tokens. A family goes from one generation to the next by a compare-and-swap on its row, under the locks of a logout of its session:
//! whatever ends it either came before, and is seen, or comes after, and finds the successor in the family it ends.

use super::commit::{self, Input};
use super::ending::Scene;
use super::joins::{self, Desk};
use super::token_events::Notes;
use super::tokens::{self, stored_name};
use super::{Builder, Conn, corrupt, dialect, millis, name_lock, push_list, subject_lock, token_events};
use crate::model::access::Caller;
use crate::model::issuer::IssuerRecord;
use crate::model::report::{ReportRefused, TokenName};
use crate::model::rotation::{
    FamilyStanding, Kept, Occasion, Place, Rotated, Rotation, RotationDecision, RotationFacts, RotationRefused, ShownBy, Successor,
    SuccessorFact,
};
use crate::model::session::SessionName;
use crate::model::token::{Lifetime, LifetimeFacts, ReuseScope, TokenEventKind, TokenKind, TokenPolicy};
use crate::model::trigger::{Except, Gravity, Reason, Reused, Target, Trigger};
use crate::model::{ClientId, EventId, GrantId, IssuerId, ProviderKey, RefreshTokenId, SessionId, Sid, Subject, Timestamp};
use crate::store::{Context, Ending, Mode, RotationOrder, StoreError, TokenRecord, Turned};

type Turn = Result<Result<Rotated, ReportRefused>, StoreError>;

/// A rotation that a provider asks for, in a transaction of its own.
pub(in crate::store) async fn rotate(conn: &mut Conn, context: &Context, order: &RotationOrder) -> Result<Ending<Turned>, StoreError> {
    let RotationOrder { issuer, caller, rotation, rules } = order;
    dialect::share_issuer(conn, &issuer.id).await?;
    let member = member(conn, &issuer.id, &rotation.token).await?;
    let owned: Vec<Subject> = member.iter().flat_map(Member::subjects).collect();
    let locks: Vec<String> = member.iter().flat_map(Member::locks).collect();
    dialect::own_names(conn, &issuer.id, &locks).await?;
    let notes = Notes::default();
    let now = dialect::now(conn, &context.clock).await?;
    let desk = Desk { context, issuer: &issuer.id, rules: *rules, now, notes: &notes };
    let outcome = turn(conn, desk, issuer, &owned, rotation).await?;
    let seen = notes.into_seen();
    token_events::write(conn, context, (&issuer.id, caller), &seen.noticed, now).await?;
    Ok(Ending::Keep(Turned { outcome, seen }))
}

/// A token with its family, and whose session that hangs on.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Member {
    token_id: String,
    name: String,
    grant_id: String,
    generation: i64,
    superseded_at: Option<i64>,
    sealed: Option<String>,
    sealed_until: Option<i64>,
    scope: Option<String>,
    issued_at: Option<i64>,
    expires_at: Option<i64>,
    client_id: String,
    sub: Option<String>,
    offline: bool,
    current_generation: i64,
    rotation_due_at: Option<i64>,
    session_id: Option<String>,
    origin_session_id: Option<String>,
    sid: Option<String>,
    provider_key: Option<String>,
    session_sub: Option<String>,
}

fn member_of(issuer: &IssuerId, names: &[TokenName]) -> Builder {
    let mut sql = Builder::new(
        "SELECT t.id AS token_id, t.name, t.grant_id, t.generation, t.superseded_at, t.sealed, t.sealed_until, t.scope, t.issued_at, t.expires_at,
                g.client_id, g.sub, g.offline, g.generation AS current_generation, g.rotation_due_at, g.session_id, g.origin_session_id,
                s.sid, s.provider_key, s.sub AS session_sub
           FROM refresh_tokens AS t
           JOIN grants AS g ON g.id = t.grant_id
           LEFT JOIN sessions AS s ON s.id = COALESCE(g.session_id, g.origin_session_id)
          WHERE t.issuer_id = ",
    );
    sql.push_bind(issuer.as_str().to_owned()).push(" AND t.name IN ");
    let stored: Vec<String> = names.iter().map(stored_name).collect();
    push_list(&mut sql, stored.iter().map(String::as_str));
    // In the order in which `tokens` looks.
    sql.push(" ORDER BY t.name DESC LIMIT 1");
    sql
}

/// The token of one of these names.
pub(super) async fn member(conn: &mut Conn, issuer: &IssuerId, names: &[TokenName]) -> Result<Option<Member>, StoreError> {
    Ok(member_of(issuer, names).build_query_as().fetch_optional(conn).await?)
}

impl Member {
    /// Whose tokens it is among.
    pub(super) fn subjects(&self) -> impl Iterator<Item = Subject> {
        [self.sub.clone(), self.session_sub.clone()].into_iter().flatten().map(Subject::stored)
    }

    /// What a logout of its session or its subject locks.
    pub(super) fn locks(&self) -> impl Iterator<Item = String> {
        let sid = self.sid.clone().map(|sid| SessionName::Sid(Sid::stored(sid)));
        let key = self.provider_key.clone().map(|key| SessionName::Key(ProviderKey::stored(key)));
        let subjects: Vec<String> = self.subjects().map(|sub| subject_lock(&sub)).collect();
        subjects.into_iter().chain([sid, key].into_iter().flatten().map(|name| name_lock(&name)))
    }

    /// The session it came from, bound to it or not.
    pub(super) fn home(&self) -> Option<SessionId> {
        self.session_id.clone().or_else(|| self.origin_session_id.clone()).map(SessionId::stored)
    }

    pub(super) fn grant(&self) -> GrantId {
        GrantId::stored(self.grant_id.clone())
    }

    /// The client and the session of its family.
    pub(super) fn belongs_to(&self, client: &ClientId) -> ShownBy {
        // A token that was reported stolen before it was registered is nobody's, and over.
        if self.client_id.is_empty() || self.client_id == client.as_str() { ShownBy::ItsClient } else { ShownBy::Another }
    }

    /// Whether it has to be shown to its provider for as long as it is good.
    const fn is_sealed_for_good(&self) -> bool {
        self.sealed.is_some() && self.sealed_until.is_none()
    }

    fn standing(&self, generation: i64, capped: Option<Timestamp>) -> FamilyStanding {
        FamilyStanding { sid: self.sid.clone().map(Sid::stored), generation: super::count(generation), capped }
    }
}

/// The token that took a token's place, while it is the current one.
struct Current {
    name: TokenName,
    sealed: Option<String>,
    record: TokenRecord,
}

async fn current_after(conn: &mut Conn, issuer: &IssuerRecord, member: &Member, now: Timestamp) -> Result<Option<Current>, StoreError> {
    if member.superseded_at.is_none() || member.generation + 1 != member.current_generation {
        return Ok(None);
    }
    // Where a provider gave out two, the first of them.
    let found: Option<(String, Option<String>, Option<i64>)> = sqlx::query_as(
        "SELECT name, sealed, sealed_until FROM refresh_tokens WHERE grant_id = $1 AND generation = $2 ORDER BY created_at, id LIMIT 1",
    )
    .bind(&member.grant_id)
    .bind(member.current_generation)
    .fetch_optional(&mut *conn)
    .await?;
    let Some((name, sealed, sealed_until)) = found else { return Ok(None) };
    let name = TokenName::of_stored(&name).ok_or_else(|| corrupt("refresh_tokens", "name"))?;
    let Some(record) = tokens::refresh(conn, issuer, std::slice::from_ref(&name)).await? else { return Ok(None) };
    let sealed = sealed.filter(|_| sealed_until.is_none_or(|until| now.millis() < until));
    Ok(Some(Current { name, sealed, record }))
}

/// One rotation, by whichever door it came. Its subject's locks are held.
pub(super) async fn turn(conn: &mut Conn, desk: Desk<'_>, issuer: &IssuerRecord, owned: &[Subject], rotation: &Rotation) -> Turn {
    let Some(member) = member(conn, desk.issuer, &rotation.token).await? else {
        desk.notes.notice(TokenEventKind::UnknownToken, &rotation.client_id, None);
        return Ok(Err(ReportRefused::UnknownToken));
    };
    if !member.subjects().all(|sub| owned.contains(&sub)) {
        return Err(StoreError::raced());
    }
    let Some(record) = tokens::refresh(conn, issuer, &rotation.token).await? else { return Err(StoreError::raced()) };
    let policy = joins::client_terms(conn, desk.issuer, &rotation.client_id).await?.policy;
    let current = current_after(conn, issuer, &member, desk.now).await?;
    let successor = known_as(conn, desk.issuer, &member, &rotation.successor).await?;
    let decision = (desk.rules.rotation)(
        &RotationFacts {
            token: &record.facts,
            shown_by: member.belongs_to(&rotation.client_id),
            policy: &policy,
            place: match &current {
                Some(Current { sealed, record, .. }) => {
                    Place::JustBefore { current: &record.facts, kept: if sealed.is_some() { Kept::Sealed } else { Kept::NameAlone } }
                }
                None if member.superseded_at.is_some() => Place::Earlier,
                None => Place::Current,
            },
            due_at: super::instant(member.rotation_due_at),
            occasion: rotation.occasion,
            successor,
        },
        desk.now,
    );
    let notice = |kind| desk.notes.notice(kind, &rotation.client_id, member.home());
    Ok(match decision {
        RotationDecision::Rotate => advance(conn, desk, &member, rotation, &policy).await?,
        RotationDecision::Beside => {
            notice(TokenEventKind::RotationOutOfOrder);
            beside(conn, desk, &member, rotation, &policy).await?
        }
        RotationDecision::NotDue => Ok(Rotated::NotDue(member.standing(member.current_generation, None))),
        RotationDecision::Repeat => Ok(Rotated::Repeated(member.standing(member.current_generation, None))),
        RotationDecision::Replay => {
            let Some(Current { name, sealed: Some(sealed), .. }) = current else { return Err(corrupt("refresh_tokens", "sealed")) };
            Ok(Rotated::Replayed { standing: member.standing(member.current_generation, None), name, sealed })
        }
        RotationDecision::Reuse => {
            notice(TokenEventKind::Reuse);
            bury(conn, desk, &member, rotation, successor).await?;
            end_by_reuse(conn, desk, &member, policy.reuse_scope).await?;
            Err(ReportRefused::TokenReused)
        }
        RotationDecision::Over => {
            notice(TokenEventKind::UseAfterLogout);
            bury(conn, desk, &member, rotation, successor).await?;
            Err(ReportRefused::SessionEnded)
        }
        RotationDecision::Refused(refused) => {
            let kind = match (refused, rotation.occasion) {
                (RotationRefused::ForeignClient, _) => Some(TokenEventKind::ForeignClient),
                (RotationRefused::OtherOwner, Occasion::Done) => Some(TokenEventKind::RotationOutOfOrder),
                (RotationRefused::OtherOwner | RotationRefused::Inactive | RotationRefused::ClientSuspended, _) => None,
            };
            kind.into_iter().for_each(notice);
            Err(match refused {
                RotationRefused::ForeignClient => ReportRefused::UnknownToken,
                RotationRefused::Inactive => ReportRefused::TokenInactive,
                RotationRefused::ClientSuspended => ReportRefused::ClientSuspended,
                RotationRefused::OtherOwner => ReportRefused::OtherOwner,
            })
        }
    })
}

/// What is known of a successor.
async fn known_as(conn: &mut Conn, issuer: &IssuerId, member: &Member, successor: &Successor) -> Result<SuccessorFact, StoreError> {
    let found: Option<(String, i64)> = sqlx::query_as("SELECT grant_id, generation FROM refresh_tokens WHERE issuer_id = $1 AND name = $2")
        .bind(issuer.as_str())
        .bind(stored_name(&successor.name))
        .fetch_optional(conn)
        .await?;
    Ok(match found {
        None => SuccessorFact::New,
        Some((grant, generation)) if grant == member.grant_id && generation > member.generation => SuccessorFact::OfTheFamily,
        Some(_) => SuccessorFact::Elsewhere,
    })
}

/// Whether a successor's value stays, and until when; none in it means as long as the token is good.
enum Keeping {
    No,
    Sealed { value: String, until: Option<Timestamp> },
}

/// Until when a successor can be given out again, or shown to its provider; none where its value is needed and is not there.
fn keeping(member: &Member, rotation: &Rotation, policy: &TokenPolicy, now: Timestamp) -> Option<Keeping> {
    let graceful = matches!(rotation.occasion, Occasion::Asked(_)) && !policy.grace.is_zero();
    let until = match (member.is_sealed_for_good(), graceful) {
        (true, _) => None,
        (false, true) => Some(now.plus(policy.grace)),
        (false, false) => return Some(Keeping::No),
    };
    rotation.successor.sealed.clone().map(|value| Keeping::Sealed { value, until })
}

/// How long a successor lives: as long as its predecessor, unless said, and no longer than it may. The second is set where it was cut short.
fn life(desk: Desk<'_>, member: &Member, rotation: &Rotation, policy: &TokenPolicy) -> Option<(Option<Timestamp>, Option<Timestamp>)> {
    let issued_at = rotation.successor.issued_at.unwrap_or(desk.now);
    let before = member.expires_at.zip(member.issued_at).and_then(|(to, from)| u64::try_from(to - from).ok());
    let expires_at = rotation.successor.expires_at.or_else(|| before.map(|life| issued_at.plus(std::time::Duration::from_millis(life))));
    let facts = LifetimeFacts { longest: policy.lifetime_max, over_limit: policy.over_limit, issued_at, expires_at };
    let notice = || {
        if rotation.successor.expires_at.is_some() {
            desk.notes.notice(TokenEventKind::OverLimit, &rotation.client_id, member.home());
        }
    };
    match (desk.rules.lifetime)(&facts) {
        Lifetime::Within => Some((expires_at, None)),
        Lifetime::Capped(at) => {
            notice();
            Some((Some(at), Some(at)))
        }
        Lifetime::Refused => {
            notice();
            None
        }
    }
}

/// The step to the next generation.
async fn advance(conn: &mut Conn, desk: Desk<'_>, member: &Member, rotation: &Rotation, policy: &TokenPolicy) -> Turn {
    let Some(keeping) = keeping(member, rotation, policy, desk.now) else { return Ok(Err(ReportRefused::SuccessorValueMissing)) };
    let Some((expires_at, capped)) = life(desk, member, rotation, policy) else { return Ok(Err(ReportRefused::LifetimeOverLimit)) };
    let stepped = sqlx::query(
        "UPDATE grants SET generation = generation + 1, rotated_at = $3, rotation_due_at = NULL
          WHERE id = $1 AND generation = $2 AND revoked_at IS NULL",
    )
    .bind(&member.grant_id)
    .bind(member.current_generation)
    .bind(desk.now.millis())
    .execute(&mut *conn)
    .await?;
    if stepped.rows_affected() != 1 {
        return Err(StoreError::raced());
    }
    sqlx::query("UPDATE refresh_tokens SET superseded_at = $2, sealed = NULL, sealed_until = NULL WHERE id = $1")
        .bind(&member.token_id)
        .bind(desk.now.millis())
        .execute(&mut *conn)
        .await?;
    let generation = member.current_generation + 1;
    insert(conn, desk, member, &rotation.successor, New { grant: &member.grant_id, generation, expires_at, keeping }).await?;
    note_newest(conn, desk, member, rotation, policy).await?;
    Ok(Ok(Rotated::Rotated(member.standing(generation, capped))))
}

/// A second successor of the same generation, in its family so that it ends with it.
async fn beside(conn: &mut Conn, desk: Desk<'_>, member: &Member, rotation: &Rotation, policy: &TokenPolicy) -> Turn {
    let Some((expires_at, capped)) = life(desk, member, rotation, policy) else { return Ok(Err(ReportRefused::LifetimeOverLimit)) };
    let generation = member.current_generation;
    let new = New { grant: &member.grant_id, generation, expires_at, keeping: Keeping::No };
    insert(conn, desk, member, &rotation.successor, new).await?;
    note_newest(conn, desk, member, rotation, policy).await?;
    Ok(Ok(Rotated::Rotated(member.standing(generation, capped))))
}

async fn note_newest(
    conn: &mut Conn,
    desk: Desk<'_>,
    member: &Member,
    rotation: &Rotation,
    policy: &TokenPolicy,
) -> Result<(), StoreError> {
    let sub = member.sub.clone().map(Subject::stored);
    let issued_at = rotation.successor.issued_at.unwrap_or(desk.now);
    let newest = joins::Latest { client_id: &rotation.client_id, sub: sub.as_ref(), kind: TokenKind::Refresh, issued_at };
    joins::note_newest(conn, desk.issuer, policy, newest, &rotation.successor.name).await
}

/// Where a successor is stored.
struct New<'a> {
    grant: &'a str,
    generation: i64,
    expires_at: Option<Timestamp>,
    keeping: Keeping,
}

async fn insert(conn: &mut Conn, desk: Desk<'_>, member: &Member, successor: &Successor, new: New<'_>) -> Result<(), StoreError> {
    let (sealed, sealed_until) = match new.keeping {
        Keeping::No => (None, None),
        Keeping::Sealed { value, until } => (Some(value), until),
    };
    sqlx::query(
        "INSERT INTO refresh_tokens (id, issuer_id, name, grant_id, issued_at, expires_at, scope, created_at, generation, sealed, sealed_until)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(desk.context.entropy.id::<RefreshTokenId>(desk.now).as_str())
    .bind(desk.issuer.as_str())
    .bind(stored_name(&successor.name))
    .bind(new.grant)
    .bind(successor.issued_at.unwrap_or(desk.now).millis())
    .bind(millis(new.expires_at))
    // RFC 6749 6: the scope stays what it was.
    .bind(member.scope.as_deref())
    .bind(desk.now.millis())
    .bind(new.generation)
    .bind(sealed)
    .bind(millis(sealed_until))
    .execute(conn)
    .await?;
    Ok(())
}

/// A successor that its provider gave out although the family was over must never become active: its name is taken by a family that is revoked already.
async fn bury(conn: &mut Conn, desk: Desk<'_>, member: &Member, rotation: &Rotation, successor: SuccessorFact) -> Result<(), StoreError> {
    match (rotation.occasion, successor) {
        (Occasion::Done, SuccessorFact::New) => {}
        (Occasion::Asked(_), _) | (Occasion::Done, SuccessorFact::OfTheFamily | SuccessorFact::Elsewhere) => return Ok(()),
    }
    let grant: GrantId = desk.context.entropy.id(desk.now);
    sqlx::query(
        "INSERT INTO grants (id, issuer_id, client_id, sub, session_id, origin_session_id, offline, begun_at, created_at, revoked_at, epoch)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $8, (SELECT epoch FROM issuers WHERE id = $2))",
    )
    .bind(grant.as_str())
    .bind(desk.issuer.as_str())
    .bind(&member.client_id)
    .bind(member.sub.as_deref())
    .bind(member.session_id.as_deref())
    .bind(member.origin_session_id.as_deref())
    .bind(member.offline)
    .bind(desk.now.millis())
    .execute(&mut *conn)
    .await?;
    let new = New { grant: grant.as_str(), generation: 0, expires_at: rotation.successor.expires_at, keeping: Keeping::No };
    insert(conn, desk, member, &rotation.successor, new).await
}

/// The logout that a reuse is, with all that belongs to one.
async fn end_by_reuse(conn: &mut Conn, desk: Desk<'_>, member: &Member, scope: ReuseScope) -> Result<(), StoreError> {
    let trigger = Trigger {
        issuer: desk.issuer.clone(),
        target: Target::Reuse(reached(member, scope)),
        except: Except::default(),
        reason: Reason::TokenReuse,
        reason_detail: None,
        occurred_at: None,
        revoke_offline_access: false,
        tell_provider: None,
        actor: None,
        correlation_id: None,
        note: None,
        caller: Caller::itself(desk.issuer),
        idempotency: None,
    };
    let reach = (desk.rules.reach)(&trigger);
    let event: EventId = desk.context.entropy.id(desk.now);
    let input: Input = (trigger, reach, shown(member)?, Mode::Commit, desk.rules.opening);
    match commit::conclude(conn, desk.context, &input, (&event, desk.now), None).await? {
        Ending::Keep(Ok(committed)) => desk.notes.logout(committed.receipt),
        Ending::Undo(_) | Ending::Keep(Err(_)) => return Err(StoreError::raced()),
    }
    // Where sessions end, a family that hangs on none of them, or one of more sessions than end at once, ends here.
    sqlx::query("UPDATE grants SET revoked_at = $2, revoked_by = $3 WHERE id = $1 AND revoked_at IS NULL")
        .bind(&member.grant_id)
        .bind(desk.now.millis())
        .bind(event.as_str())
        .execute(conn)
        .await?;
    Ok(())
}

/// What ends, as far as there is such a thing.
fn reached(member: &Member, scope: ReuseScope) -> Reused {
    let subject = member.session_sub.clone().or_else(|| member.sub.clone()).map(Subject::stored);
    let session = member.session_id.clone().map(SessionId::stored);
    match (scope, session, subject) {
        (ReuseScope::Subject, _, Some(sub)) => Reused::Subject(sub),
        (ReuseScope::Subject | ReuseScope::Session, Some(session), _) => Reused::Session(session),
        (ReuseScope::Grant | ReuseScope::Subject | ReuseScope::Session, ..) => Reused::Family(member.grant()),
    }
}

/// What a receipt shows of the token that was used again: never the token.
fn shown(member: &Member) -> Result<String, StoreError> {
    let name = TokenName::of_stored(&member.name).ok_or_else(|| corrupt("refresh_tokens", "name"))?;
    let target = match name {
        TokenName::Digest(digest) => serde_json::json!({ "refresh_token_sha256": digest.to_string() }),
        TokenName::Jti(jti) => serde_json::json!({ "refresh_token_jti": jti.as_str() }),
    };
    Ok(target.to_string())
}

/// After a grave logout of a person, what survived it is replaced at its next use: whoever copied it before has it no longer.
pub(super) async fn make_due(conn: &mut Conn, act: Scene<'_>, trigger: &Trigger) -> Result<(), StoreError> {
    let sub = match &trigger.target {
        Target::Subject(sub) | Target::SubjectExcept { sub, .. } | Target::SubjectAtClient { sub, .. } => sub,
        Target::Session(_)
        | Target::Client(_)
        | Target::SessionAtClient { .. }
        | Target::ClientSid { .. }
        | Target::ClientSub { .. }
        | Target::Device(_)
        | Target::RefreshToken { .. }
        | Target::Reuse(_)
        | Target::Everyone => return Ok(()),
    };
    if trigger.reason.gravity() < Gravity::Security {
        return Ok(());
    }
    sqlx::query("UPDATE grants SET rotation_due_at = $3 WHERE issuer_id = $1 AND sub = $2 AND revoked_at IS NULL")
        .bind(act.issuer.as_str())
        .bind(sub.as_str())
        .bind(act.now.millis())
        .execute(conn)
        .await?;
    Ok(())
}

/// The statements of a rotation, for their plans.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    let issuer = IssuerId::stored("a".to_owned());
    let names = [TokenName::Jti(crate::model::Jti::stored("b".to_owned()))];
    vec![
        ("a token with its family", member_of(&issuer, &names)),
        (
            "what took a token's place",
            Builder::new("SELECT name FROM refresh_tokens WHERE grant_id = 'a' AND generation = 1 ORDER BY created_at, id LIMIT 1"),
        ),
        ("families of a subject", Builder::new("SELECT id FROM grants WHERE issuer_id = 'a' AND sub = 'b' AND revoked_at IS NULL")),
    ]
}
