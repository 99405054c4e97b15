//! What only SQLite does: nothing is locked, since one writer does everything in turn.

use super::Conn;
use crate::model::{IssuerId, Timestamp};
use crate::seams::Clock;
use crate::store::StoreError;

/// Rows cannot be locked and need not be.
pub(in crate::store) const SKIP_LOCKED: &str = "";
/// The one writer holds everything.
pub(in crate::store) const FOR_UPDATE: &str = "";

/// One process: its clock is the clock.
#[expect(clippy::unused_async, reason = "the same call asks the server on PostgreSQL")]
pub(in crate::store) async fn now(_: &mut Conn, clock: &Clock) -> Result<Timestamp, StoreError> {
    Ok(clock.now())
}

#[expect(clippy::unused_async, reason = "the same call takes a lock on PostgreSQL")]
pub(in crate::store) async fn share_issuer(_: &mut Conn, _: &IssuerId) -> Result<(), StoreError> {
    Ok(())
}

#[expect(clippy::unused_async, reason = "the same call takes a lock on PostgreSQL")]
pub(in crate::store) async fn own_issuer(_: &mut Conn, _: &IssuerId) -> Result<(), StoreError> {
    Ok(())
}

#[expect(clippy::unused_async, reason = "the same call takes locks on PostgreSQL")]
pub(in crate::store) async fn own_names(_: &mut Conn, _: &IssuerId, _: &[String]) -> Result<(), StoreError> {
    Ok(())
}
