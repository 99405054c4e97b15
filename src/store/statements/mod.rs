//! Every statement, written once and compiled for each engine. `Conn` and `Db` are the engine's; `dialect` is what it does its own way.
//!
//! Rows are private to their file. Lists grow by [`sqlx::QueryBuilder`], which writes the engine's own placeholders; fixed texts use `$1`.

use super::{Conn, Db, dialect};

pub(in crate::store) mod account;
pub(in crate::store) mod alarms;
pub(in crate::store) mod assertions;
pub(in crate::store) mod audit;
pub(in crate::store) mod chores;
pub(in crate::store) mod commit;
pub(in crate::store) mod cut_offs;
pub(in crate::store) mod deliveries;
pub(in crate::store) mod denylist;
pub(in crate::store) mod erasure;
pub(in crate::store) mod events;
pub(in crate::store) mod expiry;
pub(in crate::store) mod explain;
pub(in crate::store) mod families;
pub(in crate::store) mod gaps;
pub(in crate::store) mod keys;
pub(in crate::store) mod lanes;
pub(in crate::store) mod meta;
pub(in crate::store) mod operators;
mod provider;
pub(in crate::store) mod providers;
pub(in crate::store) mod reconcile;
pub(in crate::store) mod registry;
pub(in crate::store) mod relay;
pub(in crate::store) mod replicas;
pub(in crate::store) mod reports;
pub(in crate::store) mod retention;
pub(in crate::store) mod revocation;
pub(in crate::store) mod secrets;
pub(in crate::store) mod sessions;
pub(in crate::store) mod token_events;
pub(in crate::store) mod tokens;
pub(in crate::store) mod works;

mod access_tokens;
mod ending;
mod expansion;
mod joins;
mod policies;
mod residual;
mod revocation_notices;

use crate::model::page::{Cursor, Listed, Page};
use crate::model::session::SessionName;
use crate::model::{Malformed, Subject, Timestamp};
use crate::store::StoreError;

type Builder = sqlx::QueryBuilder<Db>;

/// How many rows one multi-row statement carries, well below either engine's limit on parameters.
const ROWS_MAX: usize = 500;

/// What is locked for a subject.
fn subject_lock(sub: &Subject) -> String {
    format!("subject {}", sub.as_str())
}

/// What is locked for a session's name, registered or not: a session that is being reported is invisible until its report commits.
fn name_lock(name: &SessionName) -> String {
    match name {
        SessionName::Sid(sid) => format!("sid {}", sid.as_str()),
        SessionName::Key(key) => format!("key {}", key.as_str()),
        SessionName::Subject(sub) => subject_lock(sub),
    }
}

fn corrupt(table: &'static str, column: &'static str) -> StoreError {
    StoreError::Corrupt { table, column }
}

/// A word of a closed vocabulary, read back.
fn word<T>(parsed: Result<T, Malformed>, table: &'static str, column: &'static str) -> Result<T, StoreError> {
    parsed.map_err(|_| corrupt(table, column))
}

fn number<T: TryFrom<i64>>(value: i64, table: &'static str, column: &'static str) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| corrupt(table, column))
}

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn instant(value: Option<i64>) -> Option<Timestamp> {
    value.map(Timestamp::from_millis)
}

fn millis(value: Option<Timestamp>) -> Option<i64> {
    value.map(Timestamp::millis)
}

fn duration_ms(value: std::time::Duration) -> i64 {
    i64::try_from(value.as_millis()).unwrap_or(i64::MAX)
}

/// `(a, b, c)` of bound values.
fn push_list<'a>(sql: &mut Builder, values: impl IntoIterator<Item = &'a str>) {
    sql.push("(");
    let mut list = sql.separated(", ");
    for value in values {
        list.push_bind(value.to_owned());
    }
    sql.push(")");
}

/// ` AND column = value`.
fn push_equal(sql: &mut Builder, column: &'static str, value: &str) {
    sql.push(" AND ").push(column).push(" = ").push_bind(value.to_owned());
}

/// A fixed condition.
fn push_text(sql: &mut Builder, text: &'static str) {
    sql.push(text);
}

/// The end of a list's statement: what is older than the cursor, newest first, one more than fits to know whether there is more.
fn push_page(sql: &mut Builder, page: &Page, at: &str, id: &str) {
    if let Some(cursor) = &page.after {
        sql.push(format!(" AND ({at}, {id}) < ("));
        sql.push_bind(cursor.at.millis()).push(", ").push_bind(cursor.id.clone()).push(")");
    }
    sql.push(format!(" ORDER BY {at} DESC, {id} DESC LIMIT ")).push_bind(i64::from(page.limit) + 1);
}

/// Cuts the row too many off and says where to go on.
fn listed<T>(mut items: Vec<T>, page: &Page, position: impl Fn(&T) -> Cursor) -> Listed<T> {
    let limit = usize::from(page.limit);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(position) } else { None };
    Listed { items, next }
}
