//! Assertions by which clients said who they are: each is good once.

use super::{Conn, dialect};
use crate::model::{ClientId, IssuerId, Jti, Timestamp};
use crate::store::{Context, Ending, StoreError};

type Taken = (IssuerId, ClientId, Jti, Timestamp);

/// One statement takes it or finds it taken, so that of two at the same moment one is refused. What would not be taken any more has no claim on its name.
pub(in crate::store) async fn take(
    conn: &mut Conn,
    context: &Context,
    (issuer, client, jti, until): &Taken,
) -> Result<Ending<bool>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let taken = sqlx::query(
        "INSERT INTO assertions (issuer_id, client_id, jti, expires_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (issuer_id, client_id, jti) DO UPDATE SET expires_at = excluded.expires_at WHERE assertions.expires_at <= $5",
    )
    .bind(issuer.as_str())
    .bind(client.as_str())
    .bind(jti.as_str())
    .bind(until.millis())
    .bind(now.millis())
    .execute(conn)
    .await?;
    Ok(Ending::Keep(taken.rows_affected() == 1))
}
