//! How long tokens of a client may still work somewhere after an end: what is known of it, for many deliveries at once.

use std::collections::{BTreeMap, BTreeSet};

use super::{Builder, Conn, policies, push_list};
use crate::model::Timestamp;
use crate::model::token::{Residual, TokenPolicy};
use crate::store::StoreError;

/// What a delivery is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct About {
    pub(super) issuer: String,
    pub(super) client: String,
    pub(super) session: String,
    pub(super) committed_at: Timestamp,
}

/// Until when, for each of them in its order; none where nobody can say.
pub(super) async fn until(conn: &mut Conn, about: &[About]) -> Result<Vec<Option<Timestamp>>, StoreError> {
    if about.is_empty() {
        return Ok(Vec::new());
    }
    let policies = policies_of(conn, about).await?;
    let registered = registered(conn, about).await?;
    let of = |one: &About| {
        let policy = policies.get(&(one.issuer.clone(), one.client.clone()));
        let residual = Residual {
            committed_at: one.committed_at,
            registered_until: registered.get(&(one.session.clone(), one.client.clone())).copied(),
            access_token_max: policy.and_then(|policy| policy.access_token_max),
            gateway_cache: policy.and_then(|policy| policy.gateway_cache),
        };
        residual.until()
    };
    Ok(about.iter().map(of).collect())
}

/// Those of the clients that said anything.
async fn policies_of(conn: &mut Conn, about: &[About]) -> Result<BTreeMap<(String, String), TokenPolicy>, StoreError> {
    let named: BTreeSet<(&str, &str)> = about.iter().map(|one| (one.issuer.as_str(), one.client.as_str())).collect();
    let named: Vec<_> = named.into_iter().collect();
    let mut found = BTreeMap::new();
    for chunk in named.chunks(super::ROWS_MAX) {
        let mut sql =
            Builder::new("SELECT issuer_id, client_id, tokens FROM clients WHERE tokens IS NOT NULL AND (issuer_id, client_id) IN (");
        sql.push_values(chunk, |mut row, (issuer, client)| {
            row.push_bind((*issuer).to_owned()).push_bind((*client).to_owned());
        });
        sql.push(")");
        for (issuer, client, text) in sql.build_query_as::<(String, String, String)>().fetch_all(&mut *conn).await? {
            found.insert((issuer, client), policies::read_client(&text)?);
        }
    }
    Ok(found)
}

/// When the last registered access token of each client in each session expires.
async fn registered(conn: &mut Conn, about: &[About]) -> Result<BTreeMap<(String, String), Timestamp>, StoreError> {
    let sessions: BTreeSet<&str> = about.iter().map(|one| one.session.as_str()).collect();
    let sessions: Vec<&str> = sessions.into_iter().collect();
    let mut found = BTreeMap::new();
    for chunk in sessions.chunks(super::ROWS_MAX) {
        let rows: Vec<(String, String, i64)> = registered_until(chunk).build_query_as().fetch_all(&mut *conn).await?;
        found.extend(rows.into_iter().map(|(session, client, until)| ((session, client), Timestamp::from_millis(until))));
    }
    Ok(found)
}

fn registered_until(sessions: &[&str]) -> Builder {
    let mut sql = Builder::new("SELECT session_id, client_id, max(expires_at) FROM access_tokens WHERE session_id IN ");
    push_list(&mut sql, sessions.iter().copied());
    sql.push(" GROUP BY session_id, client_id");
    sql
}

/// The statement, for its plan.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    vec![("access tokens of sessions", registered_until(&["a", "b"]))]
}
