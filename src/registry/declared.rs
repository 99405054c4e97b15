//! What the configuration declares, brought into the register at the start.
//!
//! Owns the judgement of declarations, by the very types and checks that requests are read with, and their way into the database, through the functions
//! that the routes use: one transaction each, with an audit record of the caller `configuration`, and none where nothing is new. Several processes may
//! do it at once. What is not declared any more is released and never deleted: a configuration that was rolled back must not revoke anybody's grants.
//! A member that is unknown is a mistake here, since a file gets no answer that could list what was ignored.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::clients::{self, ClientMetadata};
use super::issuers::{self, NewIssuer};
use super::{Declared, Judge, entry};
use crate::http::json::parse_registration;
use crate::http::{AppState, Problem, Registration};
use crate::model::access::Caller;
use crate::model::audit::Act;
use crate::model::issuer::IssuerRecord;
use crate::model::{ClientId, IssuerId, Timestamp};
use crate::observe::{DeclarationsKept, RegistrationReleased};
use crate::store::Change;

/// One issuer as it is declared, and its clients: what would be posted to register them.
#[derive(Clone, Debug)]
pub struct Declaration<'a> {
    /// The issuer.
    pub issuer: &'a Value,
    /// Its clients.
    pub clients: Vec<&'a Value>,
}

/// Something that is wrong with a declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which issuer.
    pub issuer: usize,
    /// Which of its clients; none for the issuer itself.
    pub client: Option<usize>,
    /// Which member, as a JSON pointer.
    pub pointer: String,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// What is wrong with a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// There is no such member.
    Unknown,
    /// This.
    Wrong(String),
}

/// Why the register was not brought to what is declared.
#[derive(Debug)]
pub enum Refused {
    /// The declarations cannot be followed.
    Faults(Vec<Fault>),
    /// Something failed.
    Failed(Arc<dyn Error + Send + Sync>),
}

/// Members on which the judgement of others rests: when one of them is wrong, nothing more is said of the whole.
const FOUNDATIONS: [&str; 9] = [
    "/allow_networks",
    "/ca_pem",
    "/discovery",
    "/issuer",
    "/provider_jwks_uri",
    "/upstream/mode",
    "/provider_logout/preset",
    "/provider_logout/auth/type",
    "/delivery/allow_networks",
];

/// Everything that is wrong with declarations, as far as it can be known without the database.
pub fn faults(declarations: &[Declaration<'_>], judge: Judge<'_>, now: Timestamp) -> Vec<Fault> {
    let mut found = Vec::new();
    for (issuer, declaration) in declarations.iter().enumerate() {
        let (record, flaws) = judged::<NewIssuer, _>(declaration.issuer, |body| issuers::foreseen(body, &judge, now));
        let at = |client| move |(pointer, flaw)| Fault { issuer, client, pointer, flaw };
        found.extend(flaws.into_iter().map(at(None)));
        for (index, client) in declaration.clients.iter().enumerate() {
            found.extend(client_flaws(client, record.as_ref(), judge, now).into_iter().map(at(Some(index))));
        }
    }
    found
}

/// Everything that is wrong with the form of declarations, where nobody can say yet what they mean.
pub fn faults_of_form(declarations: &[Declaration<'_>]) -> Vec<Fault> {
    let mut found = Vec::new();
    for (issuer, declaration) in declarations.iter().enumerate() {
        let at = |client| move |(pointer, flaw)| Fault { issuer, client, pointer, flaw };
        found.extend(judged::<NewIssuer, ()>(declaration.issuer, |_| Ok(())).1.into_iter().map(at(None)));
        for (index, client) in declaration.clients.iter().enumerate() {
            found.extend(judged::<ClientMetadata, ()>(client, |_| Ok(())).1.into_iter().map(at(Some(index))));
        }
    }
    found
}

/// Without an issuer to judge it by, only a client's form is looked at.
fn client_flaws(client: &Value, issuer: Option<&IssuerRecord>, judge: Judge<'_>, now: Timestamp) -> Vec<(String, Flaw)> {
    let look = |body: &ClientMetadata| issuer.map_or(Ok(()), |issuer| clients::foreseen(issuer, body, judge, now).map(drop));
    judged::<ClientMetadata, ()>(client, look).1
}

/// What a body makes, if it makes anything, and all that is wrong with it: a member that is wrong is taken out, and the rest is judged again.
fn judged<T: DeserializeOwned, R>(body: &Value, read: impl Fn(&T) -> Result<R, Problem>) -> (Option<R>, Vec<(String, Flaw)>) {
    let (mut body, mut wrong, mut unknown) = (body.clone(), Vec::new(), Vec::new());
    let made = loop {
        let problem = match parsed::<T>(&body) {
            Err(problem) => problem,
            Ok(Registration { body: understood, ignored }) => {
                unknown = ignored;
                match read(&understood) {
                    Ok(made) => break Some(made),
                    Err(problem) => problem,
                }
            }
        };
        let (pointer, why) = told(&problem);
        // Said of a member that was taken out, it is no news.
        if !wrong.iter().any(|(before, _): &(String, Flaw)| *before == pointer) {
            wrong.push((pointer.clone(), Flaw::Wrong(why)));
        }
        if FOUNDATIONS.iter().any(|foundation| pointer.starts_with(foundation)) || !take_out(&mut body, &pointer) {
            break None;
        }
    };
    let made = made.filter(|_| wrong.is_empty());
    wrong.extend(unknown.into_iter().map(|path| (format!("/{}", path.replace('.', "/")), Flaw::Unknown)));
    (made, wrong)
}

fn parsed<T: DeserializeOwned>(body: &Value) -> Result<Registration<T>, Problem> {
    parse_registration(&Zeroizing::new(serde_json::to_vec(body).map_err(Problem::internal)?))
}

/// Where, and what.
fn told(problem: &Problem) -> (String, String) {
    let first = problem.errors().first();
    let why = first.map(|error| error.detail.clone()).or_else(|| problem.detail().map(str::to_owned));
    let why = match (why, problem.detail()) {
        (Some(why), Some(detail)) if why != detail => format!("{why}: {detail}"),
        (Some(why), _) => why,
        (None, _) => problem.code().title().to_lowercase(),
    };
    (first.and_then(|error| error.pointer.clone()).unwrap_or_default(), why)
}

/// Removes a member, or the list it is in; false where there is nothing to remove.
fn take_out(body: &mut Value, pointer: &str) -> bool {
    let Some((outer, name)) = pointer.rsplit_once('/') else { return false };
    match body.pointer_mut(outer) {
        Some(Value::Object(members)) => members.remove(&name.replace("~1", "/").replace("~0", "~")).is_some(),
        Some(Value::Array(_)) => take_out(body, outer),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) | None => false,
    }
}

/// Brings the register to what is declared. Where something cannot be, the rest is brought all the same, and the start is refused.
pub async fn establish(app: &AppState, declarations: &[Declaration<'_>]) -> Result<(), Refused> {
    let found = faults(declarations, Judge::of(app), app.clock.now());
    if !found.is_empty() {
        return Err(Refused::Faults(found));
    }
    let mut course = Course::default();
    for (index, declaration) in declarations.iter().enumerate() {
        course.issuer(app, index, declaration).await?;
    }
    if !course.faults.is_empty() {
        return Err(Refused::Faults(course.faults));
    }
    release(app, &course.declared).await.map_err(|problem| failed(&problem))?;
    if !course.declared.is_empty() {
        let issuers = declarations.len();
        DeclarationsKept { issuers, clients: course.declared.len() - issuers, written: course.written }.emit();
    }
    Ok(())
}

/// How far it has come.
#[derive(Default)]
struct Course {
    declared: BTreeSet<(IssuerId, Option<ClientId>)>,
    written: usize,
    faults: Vec<Fault>,
}

impl Course {
    async fn issuer(&mut self, app: &AppState, index: usize, declaration: &Declaration<'_>) -> Result<(), Refused> {
        let declared = match parsed::<NewIssuer>(declaration.issuer) {
            Ok(Registration { body, .. }) => issuers::declare(app, &body).await,
            Err(problem) => Err(problem),
        };
        let record = match declared {
            Ok((record, declared)) => {
                self.note(record.id.clone(), None, declared);
                record
            }
            Err(problem) => return self.fault(index, None, &problem),
        };
        for (position, client) in declaration.clients.iter().enumerate() {
            self.client(app, (index, position), &record, client).await?;
        }
        Ok(())
    }

    async fn client(
        &mut self,
        app: &AppState,
        (index, position): (usize, usize),
        issuer: &IssuerRecord,
        client: &Value,
    ) -> Result<(), Refused> {
        let declared = match parsed::<ClientMetadata>(client) {
            Ok(Registration { body, .. }) => clients::declare(app, issuer, &body).await,
            Err(problem) => Err(problem),
        };
        match declared {
            Ok((client_id, declared)) => self.note(issuer.id.clone(), Some(client_id), declared),
            Err(problem) => return self.fault(index, Some(position), &problem),
        }
        Ok(())
    }

    fn note(&mut self, issuer: IssuerId, client: Option<ClientId>, declared: Declared) {
        self.declared.insert((issuer, client));
        self.written += match declared {
            Declared::Before => 0,
            Declared::Anew => 1,
        };
    }

    fn fault(&mut self, issuer: usize, client: Option<usize>, problem: &Problem) -> Result<(), Refused> {
        if problem.fault().is_some() {
            return Err(failed(problem));
        }
        let (pointer, why) = told(problem);
        self.faults.push(Fault { issuer, client, pointer, flaw: Flaw::Wrong(why) });
        Ok(())
    }
}

fn failed(problem: &Problem) -> Refused {
    match problem.fault() {
        Some(fault) => Refused::Failed(Arc::clone(&fault.cause)),
        None => Refused::Failed(Arc::from(Box::<dyn Error + Send + Sync>::from(told(problem).1))),
    }
}

/// Leaves to the API what is not declared any more.
async fn release(app: &AppState, declared: &BTreeSet<(IssuerId, Option<ClientId>)>) -> Result<(), Problem> {
    for (issuer, client) in app.store.declared().await?.into_iter().filter(|name| !declared.contains(name)) {
        let (act, detail) = match &client {
            None => (Act::IssuerReleased, json!({})),
            Some(client) => (Act::ClientReleased, json!({ "client_id": client.as_str() })),
        };
        let audit = entry(act, &Caller::configuration(), Some(&issuer), &detail)?;
        match app.store.release_declared(&issuer, client.as_ref(), audit).await? {
            Change::Replaced => RegistrationReleased { issuer: &issuer, client_id: client.as_ref() }.emit(),
            // Another process was faster.
            Change::Created | Change::Stale | Change::Absent | Change::InUse | Change::Conflict => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::egress::{Egress, EgressConfig, Mode};
    use crate::model::client::DeliverySettings;
    use crate::seams::Entropy;
    use crate::token::SealingKey;

    fn found(issuer: &Value, clients: &[Value]) -> Vec<(Option<usize>, String, Flaw)> {
        let (sealing, entropy) = (SealingKey::generate(&Entropy::seeded(1)), Entropy::seeded(2));
        let egress = Egress::new(EgressConfig { ceiling: vec!["10.0.0.0/8".parse().unwrap()], ..EgressConfig::default() }).unwrap();
        let (mode, defaults, timeout_max) = (Mode::Production, &DeliverySettings::DEFAULT, Duration::from_secs(10));
        let judge = Judge { egress: &egress, mode, sealing: &sealing, entropy: &entropy, defaults, timeout_max };
        let declarations = [Declaration { issuer, clients: clients.iter().collect() }];
        let faults = faults(&declarations, judge, Timestamp::from_seconds(1_000));
        faults.into_iter().map(|Fault { issuer: _, client, pointer, flaw }| (client, pointer, flaw)).collect()
    }

    fn places(issuer: &Value, clients: &[Value]) -> Vec<String> {
        let name = |client: Option<usize>| client.map_or_else(String::new, |client| client.to_string());
        found(issuer, clients).into_iter().map(|(client, pointer, _)| format!("{}{pointer}", name(client))).collect()
    }

    fn main() -> Value {
        json!({"id": "main", "issuer": "https://op.example"})
    }

    #[test]
    fn what_the_api_takes_can_be_declared() {
        let issuer = json!({"id": "main", "issuer": "https://op.example", "discovery": true, "signing_algs": ["RS256", "ES256"],
            "provider_logout": {"preset": "keycloak", "base_url": "https://id.example", "realm": "main",
                "auth": {"type": "client_credentials", "client_id": "logoutd", "client_secret": "hush"}}});
        let client = json!({"client_id": "wiki", "backchannel_logout_uri": "https://wiki.example/l", "client_secret": "hush-hush",
            "delivery": {"timeout_ms": 5000, "headers": {"x-key": "hush"}}, "tokens": {"grace_s": 5}});
        assert_eq!(found(&issuer, &[client]), []);
    }

    #[test]
    fn every_mistake_of_form_and_of_meaning_is_found_at_once_in_the_issuer_and_in_its_clients() {
        let issuer = json!({"id": "main", "issuer": "https://op.example", "session_max_age": "long", "expiry": "soon", "upstream": {"mod": "relay"},
            "access_token_audiences": [""], "color": "red"});
        let first = json!({"client_id": "wiki", "client_name": "", "backchannel_logout_uri": "http://wiki.example/", "delivery": {"timeout_ms": 1, "horizon_s": 1}});
        let second = json!({"client_id": 5, "delivery": {"claims": "all", "tmeout_ms": 5}});
        let mut places = places(&issuer, &[first, second]);
        places.sort();
        let expected = [
            "/access_token_audiences/0",
            "/color",
            "/expiry",
            "/session_max_age",
            "/upstream/mod",
            "1/client_id",
            "1/delivery/claims",
            "1/delivery/tmeout_ms",
        ];
        assert_eq!(places, expected, "its clients are judged by their form alone while the issuer is none");
        let first = json!({"client_id": "wiki", "client_name": "", "backchannel_logout_uri": "http://wiki.example/", "delivery": {"timeout_ms": 1, "horizon_s": 1}});
        let mut places = self::places(&main(), &[first]);
        places.sort();
        assert_eq!(places, ["0/backchannel_logout_uri", "0/client_name", "0/delivery/horizon_s", "0/delivery/timeout_ms"]);
    }

    #[test]
    fn what_is_missing_is_named_once_and_what_rests_on_a_mistake_is_not_blamed() {
        assert_eq!(places(&json!({"issuer": "https://op.example"}), &[json!({})]), ["/id"]);
        assert_eq!(places(&main(), &[json!({})]), ["0/client_id"]);
        let private = json!({"client_id": "wiki", "backchannel_logout_uri": "https://192.168.0.1/", "delivery": {"allow_networks": ["192.168.0.0/16"]}});
        assert_eq!(places(&main(), &[private]), ["0/delivery/allow_networks"]);
        let cascade = json!({"id": "main", "issuer": "https://op.example", "upstream": {"mode": "cascade"}});
        assert_eq!(places(&cascade, &[]), ["/upstream/client_id"]);
    }

    #[test]
    fn a_secret_that_a_registration_cannot_do_without_must_be_said() {
        let issuer = json!({"id": "main", "issuer": "https://op.example",
            "provider_logout": {"preset": "hydra", "admin_url": "https://id.example", "auth": {"type": "bearer"}}});
        assert_eq!(found(&issuer, &[]), [(None, "/provider_logout/auth/token".to_owned(), Flaw::Wrong("must be said".to_owned()))]);
    }
}
