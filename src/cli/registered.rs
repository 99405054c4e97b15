//! Whether a client that is named is registered: a name that is misspelt must not read like one for whom nothing was left to do.

use serde_json::Value;

use super::Error;
use super::plain::plain;
use super::server::{Server, query, route};
use crate::model::{ClientId, IssuerId};

/// How many clients are named to whoever misspelt one.
const NAMED_MAX: usize = 20;

/// Refuses a client that is not registered, and says which are. Whoever may not see registrations is let through, and whatever else is amiss is met by
/// the command itself.
pub(super) async fn registered(server: &Server, issuer: &IssuerId, client: &ClientId) -> Result<(), Error> {
    match server.get(&route(&["issuers", issuer.as_str(), "clients", client.as_str()])?).await {
        Err(Error::Refused(refusal)) if refusal.code == "unknown-client" => {
            Err(Error::NoClient { client: client.clone(), issuer: issuer.clone(), there: there(server, issuer).await? })
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

async fn there(server: &Server, issuer: &IssuerId) -> Result<String, Error> {
    let path = query(route(&["issuers", issuer.as_str(), "clients"])?, [("limit", Some(NAMED_MAX.to_string()))]);
    let listed = server.get(&path).await?.value;
    let items = listed.get("items").and_then(Value::as_array).ok_or(Error::Misunderstood)?;
    let names: Vec<_> = items.iter().filter_map(|item| item.get("client_id")?.as_str()).map(plain).collect();
    let more = if listed.get("next").is_some_and(Value::is_string) { ", …" } else { "" };
    Ok(if names.is_empty() { "there is none".to_owned() } else { format!("there are: {}{more}", names.join(", ")) })
}
