//! Words to the provider: how they are told is kept, which sessions they are about, what is known before an attempt.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ending::{EndedSession, Scene, Secrets, Terms};
use super::joins::{Desk, Joined, class_number};
use super::{Builder, Conn, corrupt, duration_ms, instant, push_equal, push_list, push_text, word};
use crate::model::delivery::{Class, DeliveryKind, DeliveryState, Lane, Leased, Opened, Tally};
use crate::model::effects::{EndFact, Offline, ProviderWord};
use crate::model::provider_logout::{
    Auth, Body, BodyKind, ClientAuth, HttpCall, Method, Preset, ProviderLogout, SessionNames, Template, UrlTemplate,
};
use crate::model::session::SessionName;
use crate::model::trigger::{Reason, Target};
use crate::model::{ClientId, DeliveryId, EventId, IssuerId, ParticipantId, ProviderKey, SessionId, Sid, Subject, Timestamp};
use crate::store::{Context, ProviderFacts, StoreError};

/// What is kept of it, as JSON. The secret rests in a column of its own.
#[derive(Serialize, Deserialize)]
struct Stored {
    preset: StoredPreset,
    auth: StoredAuth,
    timeout_ms: u64,
    max_in_flight: u16,
    rate_per_s: Option<u16>,
    horizon_ms: u64,
    retry_statuses: Vec<u16>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredPreset {
    Set { url: String, audience: String },
    Http { method: String, url: String, headers: Vec<(String, String)>, body: Option<(String, Value)>, success: Vec<u16> },
    Keycloak { base_url: String, realm: String },
    Hydra { admin_url: String },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredAuth {
    None,
    Bearer,
    Basic { username: String },
    ClientCredentials { token_url: String, client_id: String, scope: Option<String>, method: String },
}

/// As it is stored.
pub(super) fn written(logout: &ProviderLogout) -> String {
    let preset = match &logout.preset {
        Preset::Set { url, audience } => StoredPreset::Set { url: url.to_string(), audience: audience.clone() },
        Preset::Http(call) => StoredPreset::Http {
            method: call.method.as_str().to_owned(),
            url: call.url.as_str().to_owned(),
            headers: call.headers.iter().map(|(name, value)| (name.clone(), value.as_str().to_owned())).collect(),
            body: call.body.as_ref().map(|body| (body.kind().as_str().to_owned(), body.to_value())),
            success: call.success.clone(),
        },
        Preset::Keycloak { base_url, realm } => StoredPreset::Keycloak { base_url: base_url.to_string(), realm: realm.clone() },
        Preset::Hydra { admin_url } => StoredPreset::Hydra { admin_url: admin_url.to_string() },
    };
    let auth = match &logout.auth {
        Auth::None => StoredAuth::None,
        Auth::Bearer => StoredAuth::Bearer,
        Auth::Basic { username } => StoredAuth::Basic { username: username.clone() },
        Auth::ClientCredentials { token_url, client_id, scope, method } => StoredAuth::ClientCredentials {
            token_url: token_url.to_string(),
            client_id: client_id.clone(),
            scope: scope.clone(),
            method: method.as_str().to_owned(),
        },
    };
    let stored = Stored {
        preset,
        auth,
        timeout_ms: u64::try_from(logout.timeout.as_millis()).unwrap_or(u64::MAX),
        max_in_flight: logout.max_in_flight,
        rate_per_s: logout.rate_per_s,
        horizon_ms: u64::try_from(logout.horizon.as_millis()).unwrap_or(u64::MAX),
        retry_statuses: logout.retry_statuses.clone(),
    };
    serde_json::to_string(&stored).expect("all its keys are strings")
}

/// What was stored.
pub(super) fn read(text: &str, sealed: Option<String>) -> Result<ProviderLogout, StoreError> {
    let bad = || corrupt("issuers", "provider_logout");
    let stored: Stored = serde_json::from_str(text).map_err(|_| bad())?;
    let url = |text: String| url::Url::from_str(&text).map_err(|_| bad());
    let preset = match stored.preset {
        StoredPreset::Set { url: to, audience } => Preset::Set { url: url(to)?, audience },
        StoredPreset::Keycloak { base_url, realm } => Preset::Keycloak { base_url: url(base_url)?, realm },
        StoredPreset::Hydra { admin_url } => Preset::Hydra { admin_url: url(admin_url)? },
        StoredPreset::Http { method, url, headers, body, success } => {
            let header = |(name, value): (String, String)| Ok((name, Template::parse(&value).map_err(|_| bad())?));
            let body = body.map(|(kind, value)| match BodyKind::parse(&kind) {
                Ok(BodyKind::Json) => Body::json(value),
                Ok(BodyKind::Form) => Body::form(value),
                Err(malformed) => Err(malformed),
            });
            Preset::Http(HttpCall {
                method: Method::parse(&method).map_err(|_| bad())?,
                url: UrlTemplate::parse(&url).map_err(|_| bad())?,
                headers: headers.into_iter().map(header).collect::<Result<_, StoreError>>()?,
                body: body.transpose().map_err(|_| bad())?,
                success,
            })
        }
    };
    let auth = match stored.auth {
        StoredAuth::None => Auth::None,
        StoredAuth::Bearer => Auth::Bearer,
        StoredAuth::Basic { username } => Auth::Basic { username },
        StoredAuth::ClientCredentials { token_url, client_id, scope, method } => {
            Auth::ClientCredentials { token_url: url(token_url)?, client_id, scope, method: ClientAuth::parse(&method).map_err(|_| bad())? }
        }
    };
    Ok(ProviderLogout {
        preset,
        auth,
        sealed,
        timeout: Duration::from_millis(stored.timeout_ms),
        max_in_flight: stored.max_in_flight,
        rate_per_s: stored.rate_per_s,
        horizon: Duration::from_millis(stored.horizon_ms),
        retry_statuses: stored.retry_statuses,
    })
}

/// Writes one delivery for each session that ended, where the provider has to be told. Before those to clients, so that it is the first that is shown.
pub(super) async fn tell(conn: &mut Conn, context: &Context, act: Scene<'_>, sessions: &[EndedSession]) -> Result<(), StoreError> {
    match act.terms.provider {
        ProviderWord::Due if !sessions.is_empty() => {}
        ProviderWord::Due | ProviderWord::Kept | ProviderWord::Known => return Ok(()),
    }
    let Some(issuer) = super::registry::issuers_of(conn, std::slice::from_ref(act.issuer)).await?.pop() else { return Ok(()) };
    let Some(logout) = &issuer.provider_logout else { return Ok(()) };
    for chunk in sessions.chunks(super::ROWS_MAX) {
        insert(conn, context, act, (&issuer.issuer, logout), chunk).await?;
    }
    Ok(())
}

/// Asks it to end what a logout names and of which nothing lives here: somebody said that it is to be told, and knows of a session that was never
/// reported. What lives here was spared, or has ended and told it already.
pub(super) async fn tell_of_unknown(conn: &mut Conn, context: &Context, act: Scene<'_>, target: &Target) -> Result<(), StoreError> {
    let mut lives = Builder::new("SELECT CAST(count(*) AS BIGINT) FROM sessions WHERE ended_at IS NULL AND issuer_id = ");
    lives.push_bind(act.issuer.as_str().to_owned());
    let (sub, sid) = match target {
        Target::Session(SessionName::Sid(sid)) => {
            push_equal(&mut lives, "sid", sid.as_str());
            (None, Some(sid.clone()))
        }
        Target::Subject(sub) => {
            push_equal(&mut lives, "sub", sub.as_str());
            (Some(sub.clone()), None)
        }
        // Nothing that the provider could be asked by, or nothing of its own.
        Target::Session(SessionName::Key(_) | SessionName::Subject(_))
        | Target::SubjectExcept { .. }
        | Target::Client(_)
        | Target::SubjectAtClient { .. }
        | Target::SessionAtClient { .. }
        | Target::ClientSid { .. }
        | Target::ClientSub { .. }
        | Target::RefreshToken { .. }
        | Target::Reuse(_)
        | Target::Device(_)
        | Target::Everyone => return Ok(()),
    };
    if lives.build_query_scalar::<i64>().fetch_one(&mut *conn).await? > 0 {
        return Ok(());
    }
    // No session has this id: the delivery stands with its logout alone.
    let unknown = EndedSession { id: context.entropy.id(act.now), sub, sid, key: None };
    tell(conn, context, act, &[unknown]).await
}

/// Tells it of a session that was over before it was reported, as what ended it would have done.
pub(super) async fn tell_late(
    conn: &mut Conn,
    desk: Desk<'_>,
    session: &Joined,
    name: &SessionName,
    end: &EndFact,
) -> Result<(), StoreError> {
    let word: Option<Option<bool>> =
        sqlx::query_scalar("SELECT tell_provider FROM events WHERE id = $1").bind(end.event.as_str()).fetch_optional(&mut *conn).await?;
    let provider = ProviderWord::of_stored(word.flatten());
    let class = if end.compromise { Class::Compromise } else { Class::Interactive };
    let terms = Terms { begun_before: None, offline: Offline::Spared, class, compromise: end.compromise, provider, secrets: Secrets::Kept };
    let act = Scene { issuer: desk.issuer, event: &end.event, at: end.at, now: desk.now, terms, owned: &[] };
    let key = match name {
        SessionName::Key(key) => Some(key.clone()),
        SessionName::Sid(_) | SessionName::Subject(_) => None,
    };
    let ended = EndedSession { id: session.id.clone(), sub: session.sub.clone(), sid: session.sid.clone(), key };
    tell(conn, desk.context, act, &[ended]).await
}

async fn insert(
    conn: &mut Conn,
    context: &Context,
    act: Scene<'_>,
    (issuer, logout): (&crate::model::Issuer, &ProviderLogout),
    sessions: &[EndedSession],
) -> Result<(), StoreError> {
    let now = act.now;
    let mut sql = Builder::new(
        "INSERT INTO deliveries (id, issuer_id, event_id, kind, client_id, lane, participant_id, session_id, sid, sub, state, reason, class, \
         compromise, late_joiner, attempts, recoverable, refused, config_fault, redirected, blocked, ours, due_at, horizon_at, horizon_ms, \
         occurred_at, created_at, settled_at) ",
    );
    let mut unreachable = Vec::new();
    sql.push_values(sessions, |mut row, one| {
        let names = SessionNames { issuer, sub: one.sub.as_ref(), sid: one.sid.as_ref(), key: one.key.as_ref() };
        let (state, reason, horizon_at, settled_at) = match logout.lacks(&names) {
            None => (DeliveryState::Pending, None, logout.horizon_at(now), None),
            Some(place) => {
                unreachable.push(place.unknown());
                (DeliveryState::Unreachable, Some(place.unknown().as_str()), now, Some(now.millis()))
            }
        };
        row.push_bind(context.entropy.id::<DeliveryId>(now).as_str().to_owned())
            .push_bind(act.issuer.as_str().to_owned())
            .push_bind(act.event.as_str().to_owned())
            .push_bind(DeliveryKind::Provider.as_str())
            .push_bind(String::new())
            .push_bind(Lane::of_provider(act.issuer).as_str().to_owned())
            // Nobody took part: the session stands in the place.
            .push_bind(one.id.as_str().to_owned())
            .push_bind(one.id.as_str().to_owned())
            .push_bind(one.sid.as_ref().map(|sid| sid.as_str().to_owned()))
            .push_bind(one.sub.as_ref().map(|sub| sub.as_str().to_owned()))
            .push_bind(state.as_str())
            .push_bind(reason)
            .push_bind(class_number(act.terms.class))
            .push_bind(act.terms.compromise)
            .push("FALSE, 0, 0, 0, 0, 0, 0, 0")
            .push_bind(now.millis())
            .push_bind(horizon_at.millis())
            .push_bind(duration_ms(horizon_at.since(now)))
            .push_bind(act.at.millis())
            .push_bind(now.millis())
            .push_bind(settled_at);
    });
    super::account::enqueue(conn, context, now, sql, &unreachable).await
}

/// How the provider of each of these issuers is told, where it is.
pub(super) async fn settings(conn: &mut Conn, issuers: &[IssuerId]) -> Result<Vec<(IssuerId, ProviderLogout)>, StoreError> {
    if issuers.is_empty() {
        return Ok(Vec::new());
    }
    let mut sql = Builder::new("SELECT id, provider_logout FROM issuers WHERE provider_logout IS NOT NULL AND id IN ");
    push_list(&mut sql, issuers.iter().map(IssuerId::as_str));
    let rows: Vec<(String, String)> = sql.build_query_as().fetch_all(conn).await?;
    rows.into_iter().map(|(id, text)| Ok((IssuerId::stored(id), read(&text, None)?))).collect()
}

type FactsRow = (i64, Option<String>, Option<String>, Option<i64>, Option<i64>);

/// What is known of the session each of these deliveries is about, by its place among all that were claimed.
pub(super) async fn facts(conn: &mut Conn, leased: &[Leased]) -> Result<BTreeMap<usize, ProviderFacts>, StoreError> {
    let mut found = BTreeMap::new();
    let notices: Vec<(usize, &Leased)> = leased.iter().enumerate().filter(|(_, one)| one.kind == DeliveryKind::Provider).collect();
    for chunk in notices.chunks(64) {
        let mut sql = Builder::new("");
        for (nth, (position, one)) in chunk.iter().enumerate() {
            sql.push(if nth == 0 { "" } else { " UNION ALL " });
            push_facts(&mut sql, *position, one);
        }
        let rows: Vec<FactsRow> = sql.build_query_as().fetch_all(&mut *conn).await?;
        for (position, key, reason, same, any) in rows {
            let position = usize::try_from(position).map_err(|_| corrupt("sessions", "id"))?;
            // The record of a logout that is still to be told is kept; if it were not, nothing is known of its reason.
            let reason = reason.map_or(Ok(Reason::Other), |reason| word(Reason::parse(&reason), "events", "reason"))?;
            found.insert(position, ProviderFacts { key: key.map(ProviderKey::stored), reason, same: instant(same), any: instant(any) });
        }
    }
    Ok(found)
}

/// `SELECT …`: its place, the provider's key of its session, why it ended, and when the latest live ones of its name and of its subject began.
fn push_facts(sql: &mut Builder, position: usize, one: &Leased) {
    let position = i64::try_from(position).unwrap_or(i64::MAX);
    sql.push(format!("SELECT CAST({position} AS BIGINT) AS position, (SELECT s.provider_key FROM sessions AS s WHERE s.id = "));
    sql.push_bind(one.session.as_str().to_owned()).push("), (SELECT e.reason FROM events AS e WHERE e.id = ");
    sql.push_bind(one.event.as_str().to_owned()).push("), ");
    let latest = |sql: &mut Builder| {
        sql.push("(SELECT max(l.started_at) FROM sessions AS l WHERE l.ended_at IS NULL AND l.issuer_id = ");
        sql.push_bind(one.issuer.as_str().to_owned());
    };
    latest(sql);
    match (&one.sid, &one.sub) {
        (Some(sid), _) => {
            sql.push(" AND l.sid = ").push_bind(sid.as_str().to_owned());
        }
        // By the provider's key, or as the one session that its person has without any name.
        (None, sub) => {
            sql.push(" AND l.sid IS NULL AND (l.provider_key = (SELECT s.provider_key FROM sessions AS s WHERE s.id = ");
            sql.push_bind(one.session.as_str().to_owned()).push(")");
            if let Some(sub) = sub {
                sql.push(" OR (l.provider_key IS NULL AND l.sub = ").push_bind(sub.as_str().to_owned());
                sql.push(" AND EXISTS (SELECT 1 FROM sessions AS s WHERE s.provider_key IS NULL AND s.id = ");
                sql.push_bind(one.session.as_str().to_owned()).push("))");
            }
            sql.push(")");
        }
    }
    sql.push("), ");
    latest(sql);
    match &one.sub {
        Some(sub) => {
            sql.push(" AND l.sub = ").push_bind(sub.as_str().to_owned());
        }
        None => push_text(sql, " AND 1 = 0"),
    }
    sql.push(")");
}

/// The lookup before an attempt as planners see it.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    let (word, at) = (|| "1".to_owned(), Timestamp::from_millis(1));
    let issuer = IssuerId::stored(word());
    let nameless = Leased {
        id: DeliveryId::stored(word()),
        event: EventId::stored(word()),
        client_id: ClientId::stored(word()),
        lane: Lane::of_provider(&issuer),
        issuer,
        kind: DeliveryKind::Provider,
        participant: ParticipantId::stored(word()),
        session: SessionId::stored(word()),
        sid: None,
        sub: Some(Subject::stored(word())),
        class: Class::Bulk,
        retry: true,
        compromise: false,
        occurred_at: at,
        created_at: at,
        horizon_at: at,
        opened: Opened::Once,
        attempts: 1,
        tally: Tally::default(),
        prior: crate::model::delivery::PriorClaim::Closed,
        lease_token: 1,
        lease_until: at,
    };
    let named = Leased { sid: Some(Sid::stored(word())), ..nameless.clone() };
    let look = |one: &Leased| {
        let mut sql = Builder::new("");
        push_facts(&mut sql, 0, one);
        sql
    };
    vec![("newer sessions of a name", look(&named)), ("newer sessions of a person", look(&nameless))]
}

/// Where the provider is told another way or another place, what was learned of the old one says nothing: its lane begins anew, and what waits is tried or,
/// where nobody is told any more, cancelled.
pub(super) async fn forget_lane(conn: &mut Conn, issuer: &IssuerId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM lanes WHERE lane = $1").bind(Lane::of_provider(issuer).as_str()).execute(conn).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_stored_is_read_again_to_the_letter() {
        let http = HttpCall {
            method: Method::Put,
            url: UrlTemplate::parse("https://id.example/{sid}?by={key}").unwrap(),
            headers: vec![("x-a".to_owned(), Template::parse("{sub}").unwrap())],
            body: Some(Body::form(json!({"a": "{issuer}"})).unwrap()),
            success: vec![204, 404],
        };
        let presets = [
            Preset::Set { url: "https://id.example/e".parse().unwrap(), audience: "id".to_owned() },
            Preset::Http(HttpCall { body: Some(Body::json(json!({"a": ["{sub}", 1, null]})).unwrap()), ..http.clone() }),
            Preset::Http(HttpCall { body: None, ..http.clone() }),
            Preset::Http(http),
            Preset::Keycloak { base_url: "https://id.example/auth".parse().unwrap(), realm: "main".to_owned() },
            Preset::Hydra { admin_url: "https://hydra.example/".parse().unwrap() },
        ];
        let client = Auth::ClientCredentials {
            token_url: "https://id.example/token".parse().unwrap(),
            client_id: "logoutd".to_owned(),
            scope: Some("kill".to_owned()),
            method: ClientAuth::Post,
        };
        for preset in presets {
            for auth in [Auth::None, Auth::Bearer, Auth::Basic { username: "u".to_owned() }, client.clone()] {
                let logout = ProviderLogout {
                    preset: preset.clone(),
                    auth,
                    sealed: Some("sealed".to_owned()),
                    timeout: Duration::from_millis(2500),
                    max_in_flight: 3,
                    rate_per_s: Some(7),
                    horizon: Duration::from_hours(1),
                    retry_statuses: vec![409],
                };
                let text = written(&logout);
                assert!(!text.contains("sealed"), "{text}");
                assert_eq!(read(&text, logout.sealed.clone()).unwrap(), logout);
            }
        }
        assert!(read("{}", None).is_err() && read("nonsense", None).is_err());
    }
}
