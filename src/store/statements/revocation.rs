//! Tokens revoked by themselves (RFC 7009): no session ends and nobody is told to log out, so that a later logout still finds whom to tell.
//!
//! A family goes with all that was issued with it: its refresh tokens and registered access tokens hang on its row, and access tokens that nobody registered
//! on the last of a client's families in their session. An access token goes alone: by its row, or where it has none by its `jti`, or by its digest.

use super::tokens::stored_name;
use super::{Builder, Conn, dialect, push_list, registry, revocation_notices, subject_lock};
use crate::model::report::TokenName;
use crate::model::token::TokenKind;
use crate::model::{DenialId, IssuerId, Jti, Subject, Timestamp};
use crate::store::{Context, Ending, Revocation, Revoked, StoreError};

/// How long an access token is refused of which nobody knows when it expires: as long as one may live that names an ended session.
const UNKNOWN_LIFE_MS: i64 = 24 * 3600 * 1000;

/// What stands in a grant for the logout that revoked it.
const BY_ITSELF: &str = "revoked";

pub(in crate::store) async fn revoke(conn: &mut Conn, context: &Context, order: &Revocation) -> Result<Ending<Revoked>, StoreError> {
    dialect::share_issuer(conn, &order.issuer).await?;
    let revoked = match order.kind {
        TokenKind::Refresh => refresh_token(conn, context, order).await?,
        TokenKind::Access => access_token(conn, context, order).await?,
    };
    match revoked {
        Revoked::Now => {
            registry::record(conn, context, &order.audit).await?;
            Ok(Ending::Keep(revoked))
        }
        Revoked::Before => Ok(Ending::Undo(revoked)),
    }
}

/// A grant's id and whose it is, which never changes.
type GrantRow = (String, Option<String>);

async fn refresh_token(conn: &mut Conn, context: &Context, order: &Revocation) -> Result<Revoked, StoreError> {
    let found: Option<GrantRow> = grant_of(order).build_query_as().fetch_optional(&mut *conn).await?;
    let Some((grant, sub)) = found else { return Ok(Revoked::Before) };
    // What a logout takes and a rotation, so that neither is half way through.
    if let Some(sub) = sub {
        dialect::own_names(conn, &order.issuer, &[subject_lock(&Subject::stored(sub))]).await?;
    }
    let now = dialect::now(conn, &context.clock).await?;
    let revoked = revoke_grant(conn, &grant, now).await?;
    match revoked {
        Revoked::Now => revocation_notices::alone(conn, context, &order.issuer, grant, &order.audit.caller, now).await?,
        Revoked::Before => {}
    }
    Ok(revoked)
}

fn grant_of(order: &Revocation) -> Builder {
    let mut sql = Builder::new("SELECT g.id, g.sub FROM refresh_tokens AS t JOIN grants AS g ON g.id = t.grant_id WHERE t.issuer_id = ");
    push_names(&mut sql, &order.issuer, &order.names);
    // The digest of the whole token says more than a jti somebody wrote into it.
    sql.push(" ORDER BY t.name DESC LIMIT 1");
    sql
}

fn push_names(sql: &mut Builder, issuer: &IssuerId, names: &[TokenName]) {
    sql.push_bind(issuer.as_str().to_owned()).push(" AND name IN ");
    let stored: Vec<String> = names.iter().map(stored_name).collect();
    push_list(sql, stored.iter().map(String::as_str));
}

/// The one place where a family is revoked without a logout. Its row is what a rotation swaps: whichever comes second sees the other.
pub(super) async fn revoke_grant(conn: &mut Conn, grant: &str, now: Timestamp) -> Result<Revoked, StoreError> {
    let revoked = sqlx::query("UPDATE grants SET revoked_at = $2, revoked_by = $3 WHERE id = $1 AND revoked_at IS NULL")
        .bind(grant)
        .bind(now.millis())
        .bind(BY_ITSELF)
        .execute(conn)
        .await?;
    Ok(if revoked.rows_affected() > 0 { Revoked::Now } else { Revoked::Before })
}

async fn access_token(conn: &mut Conn, context: &Context, order: &Revocation) -> Result<Revoked, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let mut sql = Builder::new("UPDATE access_tokens SET revoked_at = ");
    sql.push_bind(now.millis()).push(" WHERE revoked_at IS NULL AND issuer_id = ");
    push_names(&mut sql, &order.issuer, &order.names);
    if sql.build().execute(&mut *conn).await?.rows_affected() > 0 {
        return Ok(Revoked::Now);
    }
    let registered: Option<String> = registered(&order.issuer, &order.names).build_query_scalar().fetch_optional(&mut *conn).await?;
    if registered.is_some() {
        return Ok(Revoked::Before);
    }
    let until = order.expires_at.map_or(now.millis().saturating_add(UNKNOWN_LIFE_MS), Timestamp::millis);
    let new = match &order.jti {
        Some(jti) => sqlx::query(
            "INSERT INTO denylist (id, issuer_id, kind, name, expires_at, created_at) VALUES ($1, $2, 'jti', $3, $4, $5)
             ON CONFLICT (issuer_id, kind, name) DO UPDATE SET expires_at = excluded.expires_at
                WHERE denylist.expires_at < excluded.expires_at",
        )
        .bind(new_id(context, now))
        .bind(order.issuer.as_str())
        .bind(jti.as_str())
        .bind(until)
        .bind(now.millis()),
        // It has no name of its own. Registered dead, it is found by its octets from now on.
        None => sqlx::query(
            "INSERT INTO access_tokens (id, issuer_id, name, client_id, issued_at, expires_at, created_at, revoked_at)
             VALUES ($1, $2, $3, $4, $6, $5, $6, $6) ON CONFLICT (issuer_id, name) DO NOTHING",
        )
        .bind(new_id(context, now))
        .bind(order.issuer.as_str())
        .bind(order.names.first().map(stored_name))
        .bind(order.client_id.as_ref().map_or("", |client| client.as_str()))
        .bind(until)
        .bind(now.millis()),
    };
    let changed = new.execute(conn).await?.rows_affected();
    Ok(if changed > 0 { Revoked::Now } else { Revoked::Before })
}

fn registered(issuer: &IssuerId, names: &[TokenName]) -> Builder {
    let mut sql = Builder::new("SELECT id FROM access_tokens WHERE issuer_id = ");
    push_names(&mut sql, issuer, names);
    sql.push(" LIMIT 1");
    sql
}

/// The id of a row that is never named by it on the API but in a list of what is denied.
fn new_id(context: &Context, now: Timestamp) -> String {
    context.entropy.id::<DenialId>(now).as_str().to_owned()
}

/// The statement that finds a family, for its plan.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    vec![("access token to be revoked", registered(&IssuerId::stored("a".to_owned()), &[TokenName::Jti(Jti::stored("b".to_owned()))]))]
}
