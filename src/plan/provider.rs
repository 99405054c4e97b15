//! The provider: whether it has to be told that a session ended here, with which request, and what its answer means.
//!
//! Ending a session here does not end the provider's own cookie, and who still has it is signed in again within a second, without a password. So the
//! provider is told of each session it did not end itself. What it did end itself never comes back to it, whatever its own logout sets off here.

use serde::Deserialize;

use super::outcome;
use super::time::{gravity_of, is_newer};
use crate::model::Timestamp;
use crate::model::access::Role;
use crate::model::attempt::{Outcome, OutcomeClass};
use crate::model::delivery::{Leased, SettledReason};
use crate::model::effects::ProviderWord;
use crate::model::provider_logout::{HttpCall, Method, Preset, ProviderLogout, Reaches, SessionNames, Unsayable, UrlTemplate, encoded};
use crate::model::trigger::{Gravity, Reason, Trigger};

/// Whether the provider has to be told of what this trigger ends. Somebody may ask for the contrary, but nobody can make it unknown to who said it.
pub fn word(trigger: &Trigger) -> ProviderWord {
    let own = trigger.caller.role == Role::Provider || trigger.reason == Reason::Upstream;
    match (trigger.tell_provider, own) {
        (Some(true), _) | (None, false) => ProviderWord::Due,
        (Some(false), false) => ProviderWord::Kept,
        (None | Some(false), true) => ProviderWord::Known,
    }
}

/// What is known before an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Late<'a> {
    /// The claimed delivery.
    pub leased: &'a Leased,
    /// What a request reaches.
    pub reaches: Reaches,
    /// When the latest live session of the same name began.
    pub same: Option<Timestamp>,
    /// When the latest live session of the same subject began.
    pub any: Option<Timestamp>,
}

/// Whether a request goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// It does.
    Out,
    /// It would end a newer login.
    Superseded,
}

/// Whether the provider is still asked. A session of the same name that began later is another one, which is seen before each attempt; any of the
/// same person is in the way of a request that names nothing but the person, since it was spared, or began later.
pub fn before_attempt(late: &Late<'_>) -> Go {
    let gravity = gravity_of(late.leased.compromise);
    let newer = |began: Option<Timestamp>| began.is_some_and(|at| is_newer(at, late.leased.occurred_at, gravity));
    match (gravity, late.reaches) {
        (Gravity::Compromise, _) => Go::Out,
        (Gravity::Plain | Gravity::Security, _) if newer(late.same) => Go::Superseded,
        // It would end whatever that person still has.
        (Gravity::Plain | Gravity::Security, Reaches::TheSubject) if late.any.is_some() => Go::Superseded,
        (Gravity::Plain | Gravity::Security, Reaches::TheSession | Reaches::TheSubject) => Go::Out,
    }
}

/// Why nothing can be said of a session, as its delivery settles.
pub const fn reason(unsayable: Unsayable) -> SettledReason {
    match unsayable {
        Unsayable::Unknown(place) => place.unknown(),
        Unsayable::Unfit => SettledReason::Unfit,
    }
}

/// A request to the provider, but for who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// How.
    pub method: Method,
    /// Where to.
    pub url: url::Url,
    /// With which headers.
    pub headers: Vec<(String, String)>,
    /// With which body, and what it is.
    pub body: Option<(&'static str, String)>,
}

/// What is said to a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saying<'a> {
    /// This.
    Call(Box<Call>),
    /// A signed event, pushed there for this audience.
    Event(&'a url::Url, &'a str),
}

/// What is said of one session.
pub fn saying<'a>(logout: &'a ProviderLogout, names: &SessionNames<'_>) -> Result<Saying<'a>, Unsayable> {
    if let Some(place) = logout.lacks(names) {
        return Err(Unsayable::Unknown(place));
    }
    let call = match &logout.preset {
        Preset::Set { url, audience } => return Ok(Saying::Event(url, audience)),
        Preset::Http(call) => filled(call, names)?,
        // Keycloak, Admin REST API: DELETE /admin/realms/{realm}/sessions/{session}.
        Preset::Keycloak { base_url, realm } => delete(base_url, &format!("/admin/realms/{}/sessions/{{sid}}", encoded(realm)), names)?,
        // Hydra, Admin API: DELETE /admin/oauth2/auth/sessions/login, by `sid` or by `subject`.
        Preset::Hydra { admin_url } => {
            let by = if names.sid.is_some() { "sid={sid}" } else { "subject={sub}" };
            delete(admin_url, &format!("/admin/oauth2/auth/sessions/login?{by}"), names)?
        }
    };
    Ok(Saying::Call(Box::new(call)))
}

fn filled(call: &HttpCall, names: &SessionNames<'_>) -> Result<Call, Unsayable> {
    let header = |(name, value): &(String, crate::model::provider_logout::Template)| Ok((name.clone(), value.header_value(names)?));
    Ok(Call {
        method: call.method,
        url: call.url.filled(names)?,
        headers: call.headers.iter().map(header).collect::<Result<_, Unsayable>>()?,
        body: call.body.as_ref().map(|body| Ok::<_, Unsayable>((body.content_type(), body.filled(names)?))).transpose()?,
    })
}

fn delete(base: &url::Url, path: &str, names: &SessionNames<'_>) -> Result<Call, Unsayable> {
    let template = UrlTemplate::parse(&format!("{}{path}", base.as_str().trim_end_matches('/'))).map_err(|_| Unsayable::Unfit)?;
    Ok(Call { method: Method::Delete, url: template.filled(names)?, headers: Vec::new(), body: None })
}

/// What an answer means, and how often a refusal is asked again before it is believed.
pub fn classify(logout: &ProviderLogout, outcome: &Outcome, body: Option<&str>) -> (OutcomeClass, u8) {
    let usual = outcome::classify(outcome, &logout.retry_statuses);
    let Outcome::Answered { status, .. } = outcome else { return (usual, 0) };
    match (&logout.preset, *status) {
        // RFC 8935 2.2
        (Preset::Set { .. }, 202) => (OutcomeClass::Delivered, 0),
        (Preset::Set { .. }, 200 | 204) => (OutcomeClass::DeliveredOddly, 0),
        (Preset::Set { .. }, 400) if usual == OutcomeClass::Refused => of_set_error(body),
        (Preset::Http(call), status) if call.success.contains(&status) => (OutcomeClass::Delivered, 0),
        (Preset::Http(call), 200..300) if !call.success.is_empty() => (OutcomeClass::ConfigFault, 0),
        (Preset::Keycloak { .. } | Preset::Hydra { .. } | Preset::Http(_), 200..300) => (OutcomeClass::Delivered, 0),
        // The session is gone already; of a realm that is not there Keycloak says so.
        (Preset::Keycloak { .. }, 404) if !body.is_some_and(|body| body.to_ascii_lowercase().contains("realm")) => {
            (OutcomeClass::Delivered, 0)
        }
        (Preset::Set { .. } | Preset::Http(_) | Preset::Keycloak { .. } | Preset::Hydra { .. }, _) => (usual, REFUSALS_CONFIRMED),
    }
}

/// How often a 400 is asked again: it may be somebody's deploy.
const REFUSALS_CONFIRMED: u8 = 2;

/// RFC 8935 2.4. A key that is not known may be one that was not fetched yet; who may not speak may be allowed to; the rest is for good.
fn of_set_error(body: Option<&str>) -> (OutcomeClass, u8) {
    #[derive(Deserialize)]
    struct SetError {
        err: String,
    }
    let error = body.and_then(|body| serde_json::from_str::<SetError>(body).ok()).map(|error| error.err);
    match error.as_deref() {
        Some("invalid_key") => (OutcomeClass::Refused, REFUSALS_CONFIRMED),
        Some("authentication_failed" | "access_denied") => (OutcomeClass::ConfigFault, 0),
        Some(_) | None => (OutcomeClass::Refused, 0),
    }
}

/// Who set off an end, in the words of CAEP 2.
pub const fn initiator(reason: Reason) -> &'static str {
    match reason {
        Reason::UserLogout | Reason::PasswordChanged | Reason::MfaRemoved | Reason::IdentifierChanged => "user",
        Reason::Admin | Reason::AccountDisabled | Reason::AccountDeleted => "admin",
        Reason::Compromise | Reason::TokenReuse | Reason::Expired => "policy",
        Reason::Upstream | Reason::Other => "system",
    }
}

/// Why a session ended, for an administrator. Never in the caller's words, which may name somebody.
pub const fn explanation(reason: Reason) -> &'static str {
    match reason {
        Reason::UserLogout => "The person logged out.",
        Reason::Admin => "An administrator ended the session.",
        Reason::Compromise => "Credentials or tokens fell into other hands.",
        Reason::Expired => "The session ended by its age.",
        Reason::PasswordChanged => "The password changed.",
        Reason::MfaRemoved => "A second factor was removed.",
        Reason::IdentifierChanged => "The address or number that identifies the person changed.",
        Reason::AccountDisabled => "The account was disabled.",
        Reason::AccountDeleted => "The account was deleted.",
        Reason::TokenReuse => "A rotated refresh token was used again.",
        Reason::Upstream => "The provider itself ended the session.",
        Reason::Other => "The session was ended.",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::access::Caller;
    use crate::model::attempt::Failure;
    use crate::model::provider_logout::{Auth, Body, Place, Template};
    use crate::model::trigger::{Except, Target};
    use crate::model::{Issuer, IssuerId, ProviderKey, Sid, Subject};

    fn trigger(role: Role, reason: Reason, tell_provider: Option<bool>) -> Trigger {
        let caller = Caller {
            identity: "t".to_owned(),
            role,
            issuer: None,
            client_id: None,
            may_mass_kill: true,
            remote: None,
            behalf: crate::model::access::Behalf::default(),
            token: crate::model::access::OwnToken::NONE,
        };
        Trigger {
            issuer: IssuerId::parse("main").unwrap(),
            target: Target::Everyone,
            except: Except::default(),
            reason,
            reason_detail: None,
            occurred_at: None,
            revoke_offline_access: false,
            tell_provider,
            actor: None,
            correlation_id: None,
            note: None,
            caller,
            idempotency: None,
        }
    }

    #[test]
    fn the_provider_is_told_of_what_others_end_and_never_of_what_it_ended_itself_unless_somebody_asks() {
        use ProviderWord::{Due, Kept, Known};
        let table = [
            (Role::Operator, Reason::Admin, None, Due),
            (Role::Admin, Reason::Compromise, None, Due),
            (Role::Operator, Reason::Admin, Some(false), Kept),
            (Role::Operator, Reason::Admin, Some(true), Due),
            (Role::Provider, Reason::UserLogout, None, Known),
            (Role::Provider, Reason::UserLogout, Some(false), Known),
            (Role::Provider, Reason::UserLogout, Some(true), Due),
            (Role::Admin, Reason::Upstream, None, Known),
            (Role::Admin, Reason::Upstream, Some(true), Due),
        ];
        for (role, reason, said, expected) in table {
            assert_eq!(word(&trigger(role, reason, said)), expected, "{role:?} {reason} {said:?}");
        }
    }

    fn logout(preset: Preset) -> ProviderLogout {
        ProviderLogout {
            preset,
            auth: Auth::None,
            sealed: None,
            timeout: ProviderLogout::TIMEOUT,
            max_in_flight: ProviderLogout::MAX_IN_FLIGHT,
            rate_per_s: None,
            horizon: ProviderLogout::HORIZON,
            retry_statuses: vec![409],
        }
    }

    fn http(success: &[u16]) -> ProviderLogout {
        logout(Preset::Http(HttpCall {
            method: Method::Post,
            url: UrlTemplate::parse("https://id.example/logout?sid={sid}").unwrap(),
            headers: vec![("x-user".to_owned(), Template::parse("u {sub}").unwrap())],
            body: Some(Body::form(serde_json::json!({"session": "{sid}"})).unwrap()),
            success: success.to_vec(),
        }))
    }

    fn keycloak(base: &str) -> ProviderLogout {
        logout(Preset::Keycloak { base_url: base.parse().unwrap(), realm: "My realm/{x}".to_owned() })
    }

    fn hydra() -> ProviderLogout {
        logout(Preset::Hydra { admin_url: "http://hydra:4445".parse().unwrap() })
    }

    fn set() -> ProviderLogout {
        logout(Preset::Set { url: "https://id.example/events".parse().unwrap(), audience: "id".to_owned() })
    }

    fn said(logout: &ProviderLogout, sub: Option<&str>, sid: Option<&str>) -> Result<Call, Unsayable> {
        let (issuer, sub, sid) = (
            Issuer::parse("https://id.example").unwrap(),
            sub.map(Subject::parse).transpose().unwrap(),
            sid.map(Sid::parse).transpose().unwrap(),
        );
        let key = ProviderKey::parse("k-1").unwrap();
        let names = SessionNames { issuer: &issuer, sub: sub.as_ref(), sid: sid.as_ref(), key: Some(&key) };
        match saying(logout, &names)? {
            Saying::Call(call) => Ok(*call),
            Saying::Event(..) => panic!("a call was expected"),
        }
    }

    #[test]
    fn each_preset_makes_the_request_its_provider_documents() {
        let sly = Some("../../admin?x=#%2f");
        let url = |logout: &ProviderLogout, sub, sid| said(logout, sub, sid).map(|call| (call.method, String::from(call.url)));
        let encoded = "..%2F..%2Fadmin%3Fx%3D%23%252f";
        for base in ["https://id.example/auth", "https://id.example/auth/"] {
            let expected = format!("https://id.example/auth/admin/realms/My%20realm%2F%7Bx%7D/sessions/{encoded}");
            assert_eq!(url(&keycloak(base), None, sly), Ok((Method::Delete, expected)));
        }
        assert_eq!(url(&keycloak("https://id.example"), sly, None), Err(Unsayable::Unknown(Place::Sid)));
        assert_eq!(url(&keycloak("https://id.example"), None, Some("..")), Err(Unsayable::Unfit));
        let login = "http://hydra:4445/admin/oauth2/auth/sessions/login";
        assert_eq!(url(&hydra(), Some("alice"), sly), Ok((Method::Delete, format!("{login}?sid={encoded}"))));
        assert_eq!(url(&hydra(), sly, None), Ok((Method::Delete, format!("{login}?subject={encoded}"))));
        assert_eq!(url(&hydra(), None, None), Err(Unsayable::Unknown(Place::Sub)));
        let call = said(&http(&[]), Some("alice"), Some("s&1")).unwrap();
        let expected = Call {
            method: Method::Post,
            url: "https://id.example/logout?sid=s%261".parse().unwrap(),
            headers: vec![("x-user".to_owned(), "u alice".to_owned())],
            body: Some(("application/x-www-form-urlencoded", "session=s%261".to_owned())),
        };
        assert_eq!(call, expected);
    }

    #[test]
    fn an_answer_means_what_its_preset_says() {
        use OutcomeClass::{ConfigFault, Delivered, DeliveredOddly, Gone, Recoverable, Refused};
        fn class(logout: &ProviderLogout, status: u16, body: Option<&str>) -> (OutcomeClass, u8) {
            classify(logout, &Outcome::Answered { status, retry_after: None }, body)
        }
        let err = |name: &str| format!(r#"{{"err":"{name}","description":"no"}}"#);
        for (status, body, expected) in [
            (202, None, (Delivered, 0)),
            (200, None, (DeliveredOddly, 0)),
            (400, Some(err("invalid_request")), (Refused, 0)),
            (400, Some(err("invalid_issuer")), (Refused, 0)),
            (400, Some(err("invalid_audience")), (Refused, 0)),
            (400, Some(err("invalid_key")), (Refused, 2)),
            (400, Some(err("authentication_failed")), (ConfigFault, 0)),
            (400, Some(err("access_denied")), (ConfigFault, 0)),
            (400, Some("oops".to_owned()), (Refused, 0)),
            (503, None, (Recoverable, 2)),
        ] {
            assert_eq!(class(&set(), status, body.as_deref()), expected, "{status} {body:?}");
        }
        let keycloak = keycloak("https://id.example");
        assert_eq!(class(&keycloak, 204, None).0, Delivered);
        assert_eq!(class(&keycloak, 404, Some(r#"{"error":"Sesssion not found"}"#)).0, Delivered);
        assert_eq!(class(&keycloak, 404, Some(r#"{"error":"Realm not found."}"#)).0, ConfigFault);
        assert_eq!((class(&hydra(), 204, None).0, class(&hydra(), 404, None).0), (Delivered, ConfigFault));
        let listed = |success: &[u16]| [200, 204, 302, 400, 404, 409, 410].map(|status| class(&http(success), status, None).0);
        assert_eq!(listed(&[]), [Delivered, Delivered, OutcomeClass::Redirected, Refused, ConfigFault, Recoverable, Gone]);
        assert_eq!(listed(&[204, 404]), [ConfigFault, Delivered, OutcomeClass::Redirected, Refused, Delivered, Recoverable, Gone]);
        assert_eq!(classify(&set(), &Outcome::Failed(Failure::Connect), None).0, Recoverable);
    }

    const OCCURRED: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn leased(compromise: bool, attempts: u32) -> Leased {
        use crate::model::delivery::{Class, DeliveryKind, Lane, Opened, Tally};
        let issuer = IssuerId::parse("main").unwrap();
        Leased {
            id: crate::model::DeliveryId::stored("1".to_owned()),
            event: crate::model::EventId::stored("1".to_owned()),
            lane: Lane::of_provider(&issuer),
            issuer,
            client_id: crate::model::ClientId::stored(String::new()),
            kind: DeliveryKind::Provider,
            participant: crate::model::ParticipantId::stored("1".to_owned()),
            session: crate::model::SessionId::stored("1".to_owned()),
            sid: None,
            sub: None,
            class: Class::Interactive,
            retry: attempts > 0,
            compromise,
            occurred_at: OCCURRED,
            created_at: OCCURRED,
            horizon_at: OCCURRED.plus(ProviderLogout::HORIZON),
            opened: Opened::Once,
            attempts,
            tally: Tally::default(),
            prior: crate::model::delivery::PriorClaim::Closed,
            lease_token: 1,
            lease_until: OCCURRED,
        }
    }

    #[test]
    fn a_newer_login_is_spared_by_its_name_and_whatever_lives_from_a_request_that_names_no_session() {
        let after = |seconds| OCCURRED.plus(Duration::from_secs(seconds));
        let newer = Some(after(30));
        let older = Some(OCCURRED.minus(Duration::from_secs(30)));
        // compromise, attempts, what a request reaches, the same name, the same person: what happens
        let table = [
            (false, 0, Reaches::TheSession, None, newer, Go::Out),
            (false, 0, Reaches::TheSession, newer, newer, Go::Superseded),
            (false, 1, Reaches::TheSession, older, newer, Go::Out),
            (false, 0, Reaches::TheSubject, None, newer, Go::Superseded),
            (false, 1, Reaches::TheSubject, None, newer, Go::Superseded),
            (false, 1, Reaches::TheSubject, None, older, Go::Superseded),
            (false, 1, Reaches::TheSubject, None, None, Go::Out),
            (false, 0, Reaches::TheSubject, newer, newer, Go::Superseded),
            (true, 1, Reaches::TheSession, newer, newer, Go::Out),
            (true, 1, Reaches::TheSubject, newer, newer, Go::Out),
        ];
        for (compromise, attempts, reaches, same, any, expected) in table {
            let leased = leased(compromise, attempts);
            let late = Late { leased: &leased, reaches, same, any };
            assert_eq!(before_attempt(&late), expected, "{compromise} {attempts} {reaches:?} {same:?} {any:?}");
        }
    }
}
