//! Tokens as they are asked about: one statement gathers all that is known of one but the cut-offs, which are another.

use super::cut_offs::{self, Known, Which};
use super::{Builder, Conn, instant, policies, push_list};
use crate::model::gap::{GapFact, OpenGaps, Said};
use crate::model::issuer::{AccessTokens, Age, Expiry, IssuerRecord};
use crate::model::report::TokenName;
use crate::model::token::{AccessClaims, GrantFact, Newest, SessionFact, TokenFacts, TokenKind, TokenPolicy, UnknownSession};
use crate::model::{ClientId, IssuerId, Jti, Sid, Subject, Timestamp};
use crate::seams::Veil;
use crate::store::{StoreError, TokenRecord};

/// How a token's name is stored: what kind of name, then the name.
pub(super) fn stored_name(name: &TokenName) -> String {
    name.stored_as()
}

/// What is read of a token, and of all that its life hangs on.
#[derive(Clone, Debug, Default, sqlx::FromRow)]
#[sqlx(default)]
struct Row {
    name: Option<String>,
    client_id: Option<String>,
    sub: Option<String>,
    offline: bool,
    scope: Option<String>,
    aud: Option<String>,
    issued_at: Option<i64>,
    expires_at: Option<i64>,
    token_revoked_at: Option<i64>,
    superseded_at: Option<i64>,
    revoked_at: Option<i64>,
    suspended_at: Option<i64>,
    policy: Option<String>,
    /// The session it is bound to.
    session_id: Option<String>,
    sid: Option<String>,
    session_sub: Option<String>,
    started_at: Option<i64>,
    session_expires_at: Option<i64>,
    session_idle_at: Option<i64>,
    device_id: Option<String>,
    token_epoch: Option<i64>,
    session_epoch: Option<i64>,
    ended_at: Option<i64>,
    /// When the last of its client's participations in the session was ended, and none is left.
    parted_at: Option<i64>,
    newest: Option<String>,
    newest_at: Option<i64>,
    denied_jti: Option<i64>,
    denied_sid: Option<i64>,
    gap_ends_at: Option<i64>,
    gap_unlisted_ends_at: Option<i64>,
    /// When it was registered, and when its family was.
    known_at: Option<i64>,
    family_at: Option<i64>,
    session_reported_at: Option<i64>,
    /// When its session was registered.
    session_known_at: Option<i64>,
}

/// Of a session `s`, for a token `t` of a client.
const SESSION: &str = "s.id AS session_id, s.sid, s.sub AS session_sub, s.started_at, s.expires_at AS session_expires_at, \
                       s.idle_expires_at AS session_idle_at, s.device_id, s.epoch AS session_epoch, s.ended_at, s.reported_at AS session_reported_at, \
                       s.created_at AS session_known_at";

/// A refresh token with its grant, its client and its session. A token's grant is what its session's end revokes, so that a session found ended here and
/// a grant found revoked say the same thing; both are looked at.
const REFRESH: &str = "SELECT t.name, g.client_id, g.sub, g.offline, t.scope, t.issued_at, t.expires_at, t.superseded_at, g.revoked_at,
       COALESCE(c.suspended_at, c.deleted_at) AS suspended_at, c.tokens AS policy, g.epoch AS token_epoch, g.session_id, s.sid, s.sub AS session_sub, s.started_at,
       s.expires_at AS session_expires_at, s.idle_expires_at AS session_idle_at, s.device_id, s.epoch AS session_epoch, s.ended_at,
       s.reported_at AS session_reported_at, s.created_at AS session_known_at, t.created_at AS known_at, g.created_at AS family_at,
       (SELECT max(q.ends_at) FROM gaps AS q WHERE q.issuer_id = g.issuer_id AND q.closed_at IS NULL) AS gap_ends_at,
       (SELECT max(q.ends_at) FROM gaps AS q WHERE q.issuer_id = g.issuer_id AND q.closed_at IS NULL AND q.listed_at IS NULL) AS gap_unlisted_ends_at,
       (SELECT n.name FROM newest_tokens AS n WHERE n.issuer_id = g.issuer_id AND n.client_id = g.client_id AND n.sub = g.sub AND n.kind = 'refresh') AS newest,
       (SELECT d.expires_at FROM denylist AS d WHERE d.issuer_id = g.issuer_id AND d.kind = 'sid' AND d.name = s.sid) AS denied_sid
  FROM refresh_tokens AS t
  JOIN grants AS g ON g.id = t.grant_id
  LEFT JOIN clients AS c ON c.issuer_id = g.issuer_id AND c.client_id = g.client_id
  LEFT JOIN sessions AS s ON s.id = COALESCE(g.session_id, g.origin_session_id)
 WHERE t.issuer_id = ";

/// A registered access token with the grant it was issued with, its client and its session.
const ACCESS: &str = "SELECT t.name, t.client_id, t.sub, t.scope, t.aud, t.issued_at, t.expires_at, t.revoked_at AS token_revoked_at, g.revoked_at,
       COALESCE(c.suspended_at, c.deleted_at) AS suspended_at, c.tokens AS policy, t.session_id, s.sid, s.sub AS session_sub, s.started_at,
       s.expires_at AS session_expires_at, s.idle_expires_at AS session_idle_at, s.device_id, s.epoch AS session_epoch, s.ended_at,
       s.reported_at AS session_reported_at, s.created_at AS session_known_at, t.created_at AS known_at,
       (SELECT max(q.ends_at) FROM gaps AS q WHERE q.issuer_id = t.issuer_id AND q.closed_at IS NULL) AS gap_ends_at,
       (SELECT max(q.ends_at) FROM gaps AS q WHERE q.issuer_id = t.issuer_id AND q.closed_at IS NULL AND q.listed_at IS NULL) AS gap_unlisted_ends_at,
       (SELECT CASE WHEN count(*) = count(p.ended_by) THEN max(p.ended_at) END FROM participants AS p
         WHERE p.session_id = t.session_id AND p.client_id = t.client_id AND (p.ended_at IS NULL OR p.ended_by IS NOT NULL)) AS parted_at,
       (SELECT n.name FROM newest_tokens AS n WHERE n.issuer_id = t.issuer_id AND n.client_id = t.client_id AND n.sub = t.sub AND n.kind = 'access') AS newest,
       (SELECT d.expires_at FROM denylist AS d WHERE d.issuer_id = t.issuer_id AND d.kind = 'sid' AND d.name = s.sid) AS denied_sid
  FROM access_tokens AS t
  LEFT JOIN grants AS g ON g.id = t.grant_id
  LEFT JOIN clients AS c ON c.issuer_id = t.issuer_id AND c.client_id = t.client_id
  LEFT JOIN sessions AS s ON s.id = t.session_id
 WHERE t.issuer_id = ";

/// What is known of an access token that nobody registered, by the session, the client and the names it says.
const CLAIMED: &str = "SELECT COALESCE(c.suspended_at, c.deleted_at) AS suspended_at, c.tokens AS policy,
       (SELECT CASE WHEN count(*) = count(p.ended_by) THEN max(p.ended_at) END FROM participants AS p
         WHERE p.session_id = k.session_id AND p.client_id = k.client_id AND (p.ended_at IS NULL OR p.ended_by IS NOT NULL)) AS parted_at,
       (SELECT CASE WHEN count(*) = count(g.revoked_at) THEN max(g.revoked_at) END
          FROM grants AS g WHERE g.session_id = k.session_id AND g.client_id = k.client_id) AS revoked_at,
       (SELECT n.issued_at FROM newest_tokens AS n WHERE n.issuer_id = k.issuer_id AND n.client_id = k.client_id AND n.sub = k.sub AND n.kind = 'access') AS newest_at,
       (SELECT d.expires_at FROM denylist AS d WHERE d.issuer_id = k.issuer_id AND d.kind = 'jti' AND d.name = k.jti) AS denied_jti,
       (SELECT d.expires_at FROM denylist AS d WHERE d.issuer_id = k.issuer_id AND d.kind = 'sid' AND d.name = k.sid) AS denied_sid,
       (SELECT max(q.ends_at) FROM gaps AS q WHERE q.issuer_id = k.issuer_id AND q.closed_at IS NULL) AS gap_ends_at,
       (SELECT max(q.ends_at) FROM gaps AS q WHERE q.issuer_id = k.issuer_id AND q.closed_at IS NULL AND q.listed_at IS NULL) AS gap_unlisted_ends_at
  FROM (SELECT CAST($1 AS TEXT) AS issuer_id, CAST($2 AS TEXT) AS client_id, CAST($3 AS TEXT) AS sub, CAST($4 AS TEXT) AS session_id,
               CAST($5 AS TEXT) AS sid, CAST($6 AS TEXT) AS jti) AS k
  LEFT JOIN clients AS c ON c.issuer_id = k.issuer_id AND c.client_id = k.client_id";

/// A registered refresh token by any of its names.
pub(in crate::store) async fn refresh(
    conn: &mut Conn,
    issuer: &IssuerRecord,
    names: &[TokenName],
) -> Result<Option<TokenRecord>, StoreError> {
    let mut sql = named(REFRESH, &issuer.id, names);
    let Some(row): Option<Row> = sql.build_query_as().fetch_optional(&mut *conn).await? else { return Ok(None) };
    let jti = row.jti().or_else(|| names.iter().find_map(jti_of));
    let denied_jti = denied(conn, &issuer.id, jti.as_ref()).await?;
    record(conn, &Veil::default(), issuer, TokenKind::Refresh, None, Row { denied_jti, ..row }).await.map(Some)
}

/// A registered access token by any of its names.
pub(in crate::store) async fn access(
    conn: &mut Conn,
    issuer: &IssuerRecord,
    names: &[TokenName],
) -> Result<Option<TokenRecord>, StoreError> {
    let mut sql = named(ACCESS, &issuer.id, names);
    let Some(row): Option<Row> = sql.build_query_as().fetch_optional(&mut *conn).await? else { return Ok(None) };
    let jti = row.jti().or_else(|| names.iter().find_map(jti_of));
    let denied_jti = denied(conn, &issuer.id, jti.as_ref()).await?;
    let mut record = record(conn, &Veil::default(), issuer, TokenKind::Access, None, Row { denied_jti, ..row }).await?;
    record.jti = jti;
    Ok(Some(record))
}

fn named(text: &'static str, issuer: &IssuerId, names: &[TokenName]) -> Builder {
    let mut sql = Builder::new(text);
    sql.push_bind(issuer.as_str().to_owned()).push(" AND t.name IN ");
    let stored: Vec<String> = names.iter().map(stored_name).collect();
    push_list(&mut sql, stored.iter().map(String::as_str));
    // The digest of the whole token says more than a jti somebody wrote into it.
    sql.push(" ORDER BY t.name DESC LIMIT 1");
    sql
}

fn jti_of(name: &TokenName) -> Option<Jti> {
    match name {
        TokenName::Jti(jti) => Some(jti.clone()),
        TokenName::Digest(_) => None,
    }
}

/// Until when a `jti` is refused.
pub(in crate::store) async fn denied_jti(conn: &mut Conn, issuer: &IssuerId, jti: &Jti) -> Result<Option<Timestamp>, StoreError> {
    Ok(instant(denied(conn, issuer, Some(jti)).await?))
}

async fn denied(conn: &mut Conn, issuer: &IssuerId, jti: Option<&Jti>) -> Result<Option<i64>, StoreError> {
    let Some(jti) = jti else { return Ok(None) };
    Ok(sqlx::query_scalar("SELECT expires_at FROM denylist WHERE issuer_id = $1 AND kind = 'jti' AND name = $2")
        .bind(issuer.as_str())
        .bind(jti.as_str())
        .fetch_optional(conn)
        .await?)
}

/// What is known of an access token that says of itself whose it is, registered or not.
pub(in crate::store) async fn claimed(
    conn: &mut Conn,
    veil: &Veil,
    issuer: &IssuerRecord,
    claims: &AccessClaims,
) -> Result<TokenRecord, StoreError> {
    let session = match &claims.sid {
        Some(sid) => session_of(conn, veil, &issuer.id, claims, sid).await?,
        None => None,
    };
    let known: Row = sqlx::query_as(CLAIMED)
        .bind(issuer.id.as_str())
        .bind(claims.client_id.as_ref().map(ClientId::as_str))
        .bind(claims.sub.as_ref().map(Subject::as_str))
        .bind(session.as_ref().and_then(|session| session.session_id.as_deref()))
        .bind(session.as_ref().and_then(|session| session.sid.as_deref()).or(claims.sid.as_ref().map(Sid::as_str)))
        .bind(claims.jti.as_ref().map(Jti::as_str))
        .fetch_one(&mut *conn)
        .await?;
    let session = match session {
        Some(session) => session,
        None => Row {
            sid: claims.sid.as_ref().map(|sid| sid.as_str().to_owned()),
            session_sub: provider_sub(conn, veil, &issuer.id, claims).await?,
            ..Row::default()
        },
    };
    let policy = known.policy.as_deref().map(policies::read_client).transpose()?;
    let row = Row {
        client_id: claims.client_id.as_ref().map(|client| client.as_str().to_owned()),
        sub: claims.sub.as_ref().map(|sub| sub.as_str().to_owned()),
        scope: claims.scope.clone(),
        issued_at: claims.issued_at.map(Timestamp::millis),
        expires_at: Some(capped(claims, policy.as_ref()).millis()),
        // Those issued after the last of its families was revoked belong to one that is not registered yet.
        revoked_at: known.revoked_at.filter(|at| claims.issued_at.is_none_or(|iat| iat.seconds() <= Timestamp::from_millis(*at).seconds())),
        suspended_at: known.suspended_at,
        policy: known.policy,
        parted_at: known.parted_at,
        newest_at: known.newest_at,
        denied_jti: known.denied_jti,
        denied_sid: known.denied_sid,
        gap_ends_at: known.gap_ends_at,
        gap_unlisted_ends_at: known.gap_unlisted_ends_at,
        ..session
    };
    let mut record = record(conn, veil, issuer, TokenKind::Access, claims.sid.as_ref(), row).await?;
    record.not_before = claims.not_before;
    record.facts.not_before = claims.not_before;
    record.aud.clone_from(&claims.aud);
    record.jti.clone_from(&claims.jti);
    record.sid = claims.sid.clone();
    Ok(record)
}

/// When it expires, and no later than its client's tokens may.
fn capped(claims: &AccessClaims, policy: Option<&TokenPolicy>) -> Timestamp {
    let longest = policy.and_then(|policy| policy.access_token_max).zip(claims.issued_at).map(|(max, iat)| iat.plus(max));
    longest.map_or(claims.expires_at, |longest| longest.min(claims.expires_at))
}

/// How many sessions of one name are looked at: providers use a `sid` again after logout.
const OF_ONE_NAME_MAX: i64 = 8;

/// The session a token's `sid` means: by the name its client saw, else by the provider's where it is the same person's; of several the latest that had
/// begun when it was issued, else the first. Of a token that does not say when it was issued, one that ended: its name may have come back since.
/// Sessions of somebody who was erased are found by what stands for their names: they have ended, whatever time their tokens say.
async fn session_of(conn: &mut Conn, veil: &Veil, issuer: &IssuerId, claims: &AccessClaims, sid: &Sid) -> Result<Option<Row>, StoreError> {
    let sids = veil.both(issuer, sid.as_str());
    let subs = claims.sub.as_ref().map(|sub| veil.both(issuer, sub.as_str()));
    let mut found = Vec::new();
    if let Some(client) = &claims.client_id {
        let mut sql = Builder::new(format!(
            "SELECT {SESSION} FROM sessions AS s WHERE s.id IN (SELECT p.session_id FROM participants AS p WHERE p.issuer_id = "
        ));
        sql.push_bind(issuer.as_str().to_owned()).push(" AND p.client_id = ").push_bind(client.as_str().to_owned());
        push_names(&mut sql, " AND p.sid IN ", &sids);
        if let Some(subs) = &subs {
            push_names(&mut sql, " AND (p.sub IS NULL OR p.sub IN ", subs);
            sql.push(")");
        }
        sql.push(") ORDER BY s.created_at DESC, s.id DESC LIMIT ");
        found = sql.push_bind(OF_ONE_NAME_MAX).build_query_as::<Row>().fetch_all(&mut *conn).await?;
    }
    if found.is_empty() {
        let mut sql = Builder::new(format!("SELECT {SESSION} FROM sessions AS s WHERE s.issuer_id = "));
        sql.push_bind(issuer.as_str().to_owned());
        push_names(&mut sql, " AND s.sid IN ", &sids);
        if let Some(subs) = &subs {
            push_names(&mut sql, " AND (s.sub IS NULL OR s.sub IN ", subs);
            sql.push(" OR EXISTS (SELECT 1 FROM participants AS p WHERE p.session_id = s.id AND p.client_id = ");
            sql.push_bind(claims.client_id.as_ref().map_or(String::new(), ClientId::to_string));
            push_names(&mut sql, " AND p.sub IN ", subs);
            sql.push("))");
        }
        sql.push(" ORDER BY s.created_at DESC, s.id DESC LIMIT ");
        found = sql.push_bind(OF_ONE_NAME_MAX).build_query_as::<Row>().fetch_all(conn).await?;
    }
    let meant = match claims.issued_at {
        Some(iat) => found.iter().find(|row| row.started_at.is_none_or(|at| Timestamp::from_millis(at).seconds() <= iat.seconds())),
        None => found.iter().find(|row| row.ended_at.is_some()),
    };
    Ok(meant.or_else(|| found.last()).cloned())
}

fn push_names(sql: &mut Builder, before: &'static str, names: &[String; 2]) {
    sql.push(before);
    push_list(sql, names.iter().map(String::as_str));
}

/// Whom a client's own name for a subject means at the provider, by the latest participation of that name.
async fn provider_sub(conn: &mut Conn, veil: &Veil, issuer: &IssuerId, claims: &AccessClaims) -> Result<Option<String>, StoreError> {
    let (Some(client), Some(sub)) = (&claims.client_id, &claims.sub) else { return Ok(None) };
    let [plain, veiled] = veil.both(issuer, sub.as_str());
    let found: Option<Option<String>> = sqlx::query_scalar(
        "SELECT s.sub FROM participants AS p JOIN sessions AS s ON s.id = p.session_id
          WHERE p.issuer_id = $1 AND p.client_id = $2 AND p.sub IN ($3, $4) ORDER BY p.joined_at DESC, p.id DESC LIMIT 1",
    )
    .bind(issuer.as_str())
    .bind(client.as_str())
    .bind(plain)
    .bind(veiled)
    .fetch_optional(conn)
    .await?;
    Ok(found.flatten())
}

impl Row {
    fn jti(&self) -> Option<Jti> {
        self.name.as_deref()?.strip_prefix("jti:").map(|jti| Jti::stored(jti.to_owned()))
    }

    fn newest(&self, newest_only: bool) -> Newest {
        match (newest_only, &self.name, &self.newest, self.newest_at) {
            (false, ..) => Newest::NotAsked,
            (true, Some(name), Some(newest), _) if name != newest => Newest::Older,
            // One that is not registered is known by its time alone, which has whole seconds.
            (true, None, _, Some(newest))
                if self.issued_at.is_none_or(|at| Timestamp::from_millis(at).seconds() < Timestamp::from_millis(newest).seconds()) =>
            {
                Newest::Older
            }
            (true, ..) => Newest::Newest,
        }
    }

    /// Whether its client's part in the session ended since it was issued; a younger token shows that the session led there once more.
    fn is_parted(&self) -> bool {
        let seconds = |at: i64| Timestamp::from_millis(at).seconds();
        self.parted_at.is_some_and(|parted| self.issued_at.is_none_or(|issued| seconds(issued) <= seconds(parted)))
    }

    /// What an open gap means for it.
    fn gap(&self) -> Option<GapFact> {
        let lives = self.session_reported_at.filter(|_| self.ended_at.is_none()).map(Timestamp::from_millis);
        let session = match (lives, &self.sid) {
            (None, _) => Said::Nothing,
            (Some(at), None) => Said::Nameless(at),
            (Some(at), Some(_)) => Said::Named(at),
        };
        Some(GapFact {
            open: OpenGaps { ends_at: instant(self.gap_ends_at)?, unlisted_ends_at: instant(self.gap_unlisted_ends_at) },
            known_at: instant([self.issued_at, self.known_at, self.family_at, self.session_known_at].into_iter().flatten().min()),
            session,
        })
    }

    fn grant(&self, issuer: &IssuerRecord, says_sid: bool) -> GrantFact {
        if self.offline {
            return GrantFact::Offline;
        }
        GrantFact::Bound(match (&self.session_id, self.started_at) {
            // Only what ended is forgotten.
            (Some(_), None) => SessionFact::Ended,
            (Some(_), Some(_)) if self.ended_at.is_some() || self.is_parted() => SessionFact::Ended,
            (Some(_), Some(started_at)) => SessionFact::Live {
                started_at: Timestamp::from_millis(started_at),
                epoch: self.session_epoch.unwrap_or(0),
                over_at: self.session_expires_at.and_then(|at| {
                    over_at(issuer.expiry, Age { expires_at: Timestamp::from_millis(at), idle_expires_at: instant(self.session_idle_at) })
                }),
            },
            (None, _) if says_sid => SessionFact::Unknown(unknown(&issuer.access_tokens)),
            (None, _) => SessionFact::None,
        })
    }
}

const fn unknown(access: &AccessTokens) -> UnknownSession {
    if access.require_known_session { UnknownSession::Refused } else { UnknownSession::Accepted }
}

/// When a session ends here by its age.
fn over_at(expiry: Expiry, age: Age) -> Option<Timestamp> {
    match expiry {
        Expiry::None => None,
        Expiry::Absolute => Some(age.expires_at),
        Expiry::Authoritative => Some(age.idle_expires_at.map_or(age.expires_at, |idle| idle.min(age.expires_at))),
    }
}

/// `own_sid` is what its client calls the session, where the token says it. What is registered needs no veil: its names were erased with those of its
/// cut-offs.
async fn record(
    conn: &mut Conn,
    veil: &Veil,
    issuer: &IssuerRecord,
    kind: TokenKind,
    own_sid: Option<&Sid>,
    row: Row,
) -> Result<TokenRecord, StoreError> {
    let newest_only = row.policy.as_deref().map(policies::read_client).transpose()?.is_some_and(|policy| policy.newest_only);
    let (grant, gap) = (row.grant(issuer, own_sid.is_some()), row.gap());
    let newest = row.newest(newest_only);
    let jti = row.jti();
    let aud = row.aud.as_deref().map(policies::read_audience).transpose()?.unwrap_or_default();
    let client_id = row.client_id.map(ClientId::stored);
    let (sub, sid) = (row.sub.map(Subject::stored), row.sid.map(Sid::stored));
    let provider_sub = row.session_sub.map(Subject::stored).or_else(|| sub.clone());
    // One that nobody registered says what its client calls its session and its subject; what is registered ends with its participation.
    let says = row.name.is_none() && kind == TokenKind::Access;
    let known = Known {
        sub: provider_sub.as_ref(),
        sid: sid.as_ref().filter(|_| says || row.session_id.is_some()),
        origin_sid: sid.as_ref(),
        client: client_id.as_ref(),
        client_sub: sub.as_ref().filter(|_| says),
        client_sid: own_sid.filter(|_| says),
        device: row.device_id.as_deref(),
    };
    let cut_offs = cut_offs::covering(conn, veil, &issuer.id, known, Which::All).await?;
    let denied_until = row.denied_jti.max(row.denied_sid).map(Timestamp::from_millis);
    let facts = TokenFacts {
        issued_at: instant(row.issued_at),
        not_before: None,
        epoch: row.token_epoch,
        expires_at: instant(row.expires_at),
        revoked_at: instant(row.token_revoked_at),
        superseded_at: instant(row.superseded_at),
        grant_revoked_at: instant(row.revoked_at),
        denied_until,
        client_suspended_at: instant(row.suspended_at),
        newest,
        grant,
        gap,
        cut_offs,
    };
    Ok(TokenRecord { kind, client_id, sub, sid, scope: row.scope, aud, not_before: None, offline_access: row.offline, jti, facts })
}

/// The statements by which tokens are found, for their plans.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    let issuer = IssuerId::stored("a".to_owned());
    let names = [TokenName::Jti(Jti::stored("b".to_owned()))];
    vec![
        ("refresh token and all its life hangs on", named(REFRESH, &issuer, &names)),
        ("access token and all its life hangs on", named(ACCESS, &issuer, &names)),
    ]
}
