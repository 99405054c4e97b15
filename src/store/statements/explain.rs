//! How the database would find the rows of the hot statements; a test demands that none of them scans a table.

use sqlx::Row as _;

use super::{
    Builder, Conn, access_tokens, alarms, audit, commit, cut_offs, deliveries, denylist, events, expansion, expiry, families, gaps, lanes,
    operators, provider, reconcile, relay, residual, retention, revocation, revocation_notices, sessions, tokens,
};
use crate::model::IssuerId;
use crate::store::StoreError;

/// Each hot statement with literals for its parameters, as planners see them.
fn hot() -> Vec<(&'static str, String)> {
    let literal = |text: &str, values: &[&str]| {
        let numbered = values.iter().enumerate().map(|(position, value)| (format!("${}", position + 1), *value));
        numbered.fold(text.to_owned(), |text, (parameter, value)| text.replace(&parameter, value))
    };
    vec![
        ("claim", literal(deliveries::DUE, &["'a/b'", "1", "TRUE", "5", "8"])),
        ("queues", literal(deliveries::QUEUES, &["64"])),
        ("probe", literal(deliveries::EARLY_PROBE, &["'a/b'", "1", "TRUE", "5", "64"])),
        ("horizon", literal(lanes::PASSED, &["5", "500"])),
        ("settled after", literal(&format!("SELECT id {}", deliveries::SETTLED_AFTER), &["'a'", "5", "'b'", "8"])),
        ("is open", literal(events::IS_OPEN, &["'a'"])),
        ("clients by their oldest delivery", literal(operators::OLDEST, &["'a'", "5", "'b'", "100"])),
        ("clients nothing waits for", literal(operators::IDLE, &["'a'", "'b'", "100"])),
        ("forecast", literal(operators::FORECAST, &["'a/b'", "5", "6", "7"])),
        ("live session by sid", "SELECT id FROM sessions WHERE issuer_id = 'a' AND sid = 'b' AND ended_at IS NULL".to_owned()),
        ("live sessions by sub", "SELECT id FROM sessions WHERE issuer_id = 'a' AND sub = 'b' AND ended_at IS NULL".to_owned()),
        ("participants of a session", "SELECT id FROM participants WHERE session_id IN ('a', 'b') AND ended_at IS NULL".to_owned()),
        (
            "newer login at a client",
            "SELECT id FROM participants WHERE ended_at IS NULL AND issuer_id = 'a' AND client_id = 'b' AND (sub = 'c' OR sid = 'd')
              ORDER BY joined_at DESC LIMIT 10"
                .to_owned(),
        ),
        ("latest family of a session", literal(access_tokens::LATEST, &["'a'", "'b'"])),
        ("token events of a session", "SELECT kind FROM token_events WHERE session_id = 'a'".to_owned()),
        ("refresh token", "SELECT id FROM refresh_tokens WHERE issuer_id = 'a' AND name IN ('b', 'c')".to_owned()),
        ("receipt", "SELECT state, count(*) FROM deliveries WHERE event_id IN ('a') GROUP BY state".to_owned()),
        ("settle", "SELECT id FROM deliveries WHERE id IN ('a', 'b') AND lease_token = 1 AND state = 'pending'".to_owned()),
        (
            "an assertion's identifier",
            "SELECT expires_at FROM assertions WHERE issuer_id = 'a' AND client_id = 'b' AND jti = 'c'".to_owned(),
        ),
        ("audit records to be sealed", literal(audit::UNSEALED, &["5", "'x'", "500"])),
        ("audit records without a number of ours", literal(audit::STRAYS, &["500"])),
        ("audit records by number", literal(audit::SEALED, &["5", "500"])),
        ("audit records counted", audit::COUNTED.to_owned()),
        ("audit records to be removed", literal(audit::PURGED, &["5", "500"])),
        ("the last head before an instant", literal(audit::LAST_HEAD_BEFORE, &["5"])),
        ("api token", "SELECT id FROM api_tokens WHERE digest = 'a' OR previous_digest = 'a'".to_owned()),
        ("alarm to be told", literal(alarms::DUE, &["5"])),
    ]
}

/// Those that are built: their parameters become literals, which either engine reads as whatever is compared with them.
fn built() -> Vec<(&'static str, String)> {
    let mut latest = Builder::new("");
    cut_offs::push_latest(&mut latest, &IssuerId::stored("a".to_owned()), &["b", "c"], cut_offs::Which::All);
    let statements = commit::hot()
        .into_iter()
        .chain([("cut-offs", latest)])
        .chain(sessions::hot())
        .chain(operators::hot())
        .chain(expansion::hot())
        .chain(expiry::hot())
        .chain(provider::hot())
        .chain(reconcile::hot())
        .chain(retention::hot())
        .chain(relay::hot())
        .chain(tokens::hot())
        .chain(residual::hot())
        .chain(denylist::hot())
        .chain(families::hot())
        .chain(gaps::hot())
        .chain(revocation::hot())
        .chain(revocation_notices::hot());
    statements.map(|(name, sql)| (name, with_literals(sql.sql().as_str()))).collect()
}

/// `$12` or `?` becomes `'1'`.
fn with_literals(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len());
    let mut rest = sql.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '?' => text.push_str("'1'"),
            '$' => {
                while rest.next_if(char::is_ascii_digit).is_some() {}
                text.push_str("'1'");
            }
            other => text.push(other),
        }
    }
    text
}

pub(in crate::store) async fn plans(conn: &mut Conn, explain: &str) -> Result<Vec<(&'static str, String)>, StoreError> {
    let mut plans = Vec::new();
    for (name, statement) in hot().into_iter().chain(built()) {
        let mut sql = Builder::new(explain.to_owned());
        sql.push(statement);
        let rows = sql.build().fetch_all(&mut *conn).await?;
        // PostgreSQL answers one text column, SQLite the text in its last.
        let lines = rows.iter().map(|row| row.try_get::<String, _>(row.len() - 1)).collect::<Result<Vec<_>, _>>()?;
        plans.push((name, lines.join("\n")));
    }
    Ok(plans)
}
