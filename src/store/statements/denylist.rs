//! The denylist: names that are refused until they would have expired.

use super::{Builder, Conn, corrupt, dialect, listed as cut, push_page, registry};
use crate::model::denial::{Denial, Denied};
use crate::model::page::{Cursor, Listed, Page};
use crate::model::{DenialId, IssuerId, Jti, Sid, Timestamp};
use crate::store::{AuditEntry, Change, Context, Ending, StoreError};

const COLUMNS: &str = "id, kind, name, expires_at, created_at";

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    kind: String,
    name: String,
    expires_at: i64,
    created_at: i64,
}

impl Row {
    fn into_denial(self) -> Result<Denial, StoreError> {
        let denied = match self.kind.as_str() {
            "jti" => Denied::Jti(Jti::stored(self.name)),
            "sid" => Denied::Sid(Sid::stored(self.name)),
            _ => return Err(corrupt("denylist", "kind")),
        };
        let (expires_at, created_at) = (Timestamp::from_millis(self.expires_at), Timestamp::from_millis(self.created_at));
        Ok(Denial { id: DenialId::stored(self.id), denied, expires_at, created_at })
    }
}

/// What kind of name, and the name.
fn stored(denied: &Denied) -> (&'static str, &str) {
    match denied {
        Denied::Jti(jti) => ("jti", jti.as_str()),
        Denied::Sid(sid) => ("sid", sid.as_str()),
    }
}

type Deny = (IssuerId, Denied, Timestamp, AuditEntry);

/// Saying it again changes nothing and is not on record, unless it lasts longer now.
pub(in crate::store) async fn deny(
    conn: &mut Conn,
    context: &Context,
    (issuer, denied, expires_at, audit): &Deny,
) -> Result<Ending<(Denial, Change)>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let id: DenialId = context.entropy.id(now);
    let (kind, name) = stored(denied);
    let changed = sqlx::query(
        "INSERT INTO denylist (id, issuer_id, kind, name, expires_at, created_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (issuer_id, kind, name) DO UPDATE SET expires_at = excluded.expires_at WHERE denylist.expires_at < excluded.expires_at",
    )
    .bind(id.as_str())
    .bind(issuer.as_str())
    .bind(kind)
    .bind(name)
    .bind(expires_at.millis())
    .bind(now.millis())
    .execute(&mut *conn)
    .await?;
    if changed.rows_affected() > 0 {
        registry::record(conn, context, audit).await?;
    }
    let mut sql = Builder::new(format!("SELECT {COLUMNS} FROM denylist WHERE issuer_id = "));
    sql.push_bind(issuer.as_str().to_owned()).push(" AND kind = ").push_bind(kind).push(" AND name = ").push_bind(name.to_owned());
    let denial = sql.build_query_as::<Row>().fetch_one(conn).await?.into_denial()?;
    let change = if denial.id == id { Change::Created } else { Change::Replaced };
    Ok(Ending::Keep((denial, change)))
}

/// What is over is not listed, whether or not it has been forgotten.
pub(in crate::store) async fn listed(
    conn: &mut Conn,
    context: &Context,
    issuer: &IssuerId,
    page: &Page,
) -> Result<Listed<Denial>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let rows: Vec<Row> = look(issuer, now, page).build_query_as().fetch_all(conn).await?;
    let denials: Vec<Denial> = rows.into_iter().map(Row::into_denial).collect::<Result<_, _>>()?;
    Ok(cut(denials, page, |denial| Cursor { at: denial.created_at, id: denial.id.to_string() }))
}

fn look(issuer: &IssuerId, now: Timestamp, page: &Page) -> Builder {
    let mut sql = Builder::new(format!("SELECT {COLUMNS} FROM denylist WHERE issuer_id = "));
    sql.push_bind(issuer.as_str().to_owned()).push(" AND expires_at > ").push_bind(now.millis());
    push_page(&mut sql, page, "created_at", "id");
    sql
}

pub(in crate::store) async fn lift(
    conn: &mut Conn,
    context: &Context,
    (issuer, id, audit): &(IssuerId, DenialId, AuditEntry),
) -> Result<Ending<Change>, StoreError> {
    let lifted = sqlx::query("DELETE FROM denylist WHERE id = $1 AND issuer_id = $2")
        .bind(id.as_str())
        .bind(issuer.as_str())
        .execute(&mut *conn)
        .await?;
    if lifted.rows_affected() == 0 {
        return Ok(Ending::Undo(Change::Absent));
    }
    registry::record(conn, context, audit).await?;
    Ok(Ending::Keep(Change::Replaced))
}

/// The statement by which an entry is found, as planners see it.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    let mut one = Builder::new("SELECT expires_at FROM denylist WHERE issuer_id = ");
    one.push_bind("a").push(" AND kind = 'jti' AND name = ").push_bind("b");
    vec![("denied jti", one)]
}
