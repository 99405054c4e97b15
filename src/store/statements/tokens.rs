//! Registered refresh tokens.

use super::cut_offs::{self, Known};
use super::{Builder, Conn, instant, push_list};
use crate::model::report::TokenName;
use crate::model::{ClientId, IssuerId, Jti, Sid, Subject, Timestamp};
use crate::store::{StoreError, TokenRecord, TokenSession};

/// How a token's name is stored: what kind of name, then the name.
pub(super) fn stored_name(name: &TokenName) -> String {
    match name {
        TokenName::Digest(digest) => format!("sha256:{digest}"),
        TokenName::Jti(jti) => format!("jti:{jti}"),
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    name: String,
    client_id: String,
    sub: Option<String>,
    offline: bool,
    scope: Option<String>,
    issued_at: Option<i64>,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
    suspended_at: Option<i64>,
    session_id: Option<String>,
    sid: Option<String>,
    started_at: Option<i64>,
    device_id: Option<String>,
    grant_epoch: i64,
    session_epoch: Option<i64>,
    ended_at: Option<i64>,
}

/// One statement for the token, its grant, its client and its session, one for the cut-offs. A token's grant is what its session's end revokes, so that a
/// session found ended here and a grant found revoked say the same thing; both are looked at.
pub(in crate::store) async fn named(conn: &mut Conn, issuer: &IssuerId, names: &[TokenName]) -> Result<Option<TokenRecord>, StoreError> {
    let mut sql = Builder::new(
        "SELECT t.name, g.client_id, g.sub, g.offline, t.scope, t.issued_at, t.expires_at, g.revoked_at, c.suspended_at, g.session_id, s.sid, s.started_at,
                s.device_id, g.epoch AS grant_epoch, s.epoch AS session_epoch, s.ended_at
           FROM refresh_tokens AS t
           JOIN grants AS g ON g.id = t.grant_id
           LEFT JOIN clients AS c ON c.issuer_id = g.issuer_id AND c.client_id = g.client_id
           LEFT JOIN sessions AS s ON s.id = COALESCE(g.session_id, g.origin_session_id)
          WHERE t.issuer_id = ",
    );
    sql.push_bind(issuer.as_str().to_owned()).push(" AND t.name IN ");
    let stored: Vec<String> = names.iter().map(stored_name).collect();
    push_list(&mut sql, stored.iter().map(String::as_str));
    // The digest of the whole token says more than a jti somebody wrote into it.
    sql.push(" ORDER BY t.name DESC LIMIT 1");
    let Some(row): Option<Row> = sql.build_query_as().fetch_optional(&mut *conn).await? else { return Ok(None) };
    let (client_id, sub, sid) = (ClientId::stored(row.client_id), row.sub.map(Subject::stored), row.sid.map(Sid::stored));
    let bound_sid = sid.as_ref().filter(|_| row.session_id.is_some());
    let known = Known {
        sub: sub.as_ref(),
        sid: bound_sid,
        origin_sid: sid.as_ref(),
        client: Some(&client_id),
        device: row.device_id.as_deref(),
        ..Known::default()
    };
    let cut_offs = cut_offs::covering(conn, issuer, known).await?;
    let session = row.session_id.and(row.started_at).map(|started_at| TokenSession {
        started_at: Timestamp::from_millis(started_at),
        epoch: row.session_epoch.unwrap_or(0),
        ended_at: instant(row.ended_at),
    });
    Ok(Some(TokenRecord {
        client_id,
        sub,
        sid,
        scope: row.scope,
        issued_at: instant(row.issued_at),
        expires_at: instant(row.expires_at),
        offline_access: row.offline,
        epoch: row.grant_epoch,
        grant_revoked_at: instant(row.revoked_at),
        client_suspended_at: instant(row.suspended_at),
        session,
        cut_offs,
        jti: row.name.strip_prefix("jti:").map(|jti| Jti::stored(jti.to_owned())),
    }))
}
