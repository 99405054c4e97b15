//! How a provider is to be told, as it is registered and shown: read into what cannot lead elsewhere, its secret sealed and never shown again.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;
use utoipa::ToSchema;

use super::Judge;
use super::clients::{HORIZON_S, IN_FLIGHT, RATE_PER_S, RETRY_STATUSES, RETRY_STATUSES_MAX, SECRET_BYTES_MAX, TIMEOUT_MS_MIN, bounded};
use crate::egress::parse_url;
use crate::http::wire::{Said, text};
use crate::http::{Problem, Text};
use crate::model::issuer::IssuerRecord;
use crate::model::provider_logout::{
    Auth, AuthKind, Body, BodyKind, ClientAuth, HttpCall, Method, Preset, PresetName, ProviderLogout, Template, UrlTemplate, encoded,
};
use crate::token::Sealed;

/// The longest audience, realm, user, client or scope, in characters.
const NAME_CHARS_MAX: usize = 1024;
/// How many headers a request may be given.
const HEADERS_MAX: usize = 20;
/// The longest name of a header, in octets.
const HEADER_NAME_MAX: usize = 64;
/// How many statuses can mean success.
const SUCCESS_MAX: usize = 20;
/// What can mean success.
const SUCCESS: RangeInclusive<u16> = 200..=599;
/// Headers that are said by this server, concern the connection, or say who asks.
const RESERVED_HEADERS: [&str; 19] = [
    "authorization",
    "proxy-authorization",
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "user-agent",
    "accept-encoding",
    "cookie",
    "logoutd-delivery",
    "logoutd-attempt",
    "content-encoding",
];

/// How a provider is to be told that a session ended here.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ProviderLogoutTerms {
    /// `set`: a signed event is pushed. `http`: a request of one's own making. `keycloak`, `hydra`: what these document for ending a session.
    preset: text::PresetName,
    /// `set`: where events are pushed to (RFC 8935). `http`: the URL, with `{sub}`, `{sid}`, `{issuer}` and `{key}` in its path and query, each encoded as
    /// one value.
    #[schema(example = "https://id.example/admin/sessions/{sid}")]
    url: Option<String>,
    /// `set`: the `aud` of the events.
    audience: Option<String>,
    /// `http`: POST unless said.
    method: Option<text::Method>,
    /// `http`: headers, whose values may hold placeholders. Who asks is said in `auth`. They are shown to whoever may read an issuer.
    headers: Option<BTreeMap<String, String>>,
    /// `http`: JSON, whose strings may hold placeholders; as a form, an object of such strings.
    #[schema(value_type = Option<Object>)]
    body: Option<Value>,
    /// `http`: what the body is; `json` unless said.
    content_type: Option<text::BodyKind>,
    /// `http`: the statuses that mean success; every 2xx unless said. List 404 if it means that the session was gone already.
    success: Option<Vec<u16>>,
    /// `keycloak`: where Keycloak is.
    #[schema(example = "https://id.example")]
    base_url: Option<String>,
    /// `keycloak`: the realm.
    realm: Option<String>,
    /// `hydra`: where its administration is.
    admin_url: Option<String>,
    /// Who asks.
    auth: Option<AuthTerms>,
    /// The longest one attempt may take, a token for it included, in milliseconds; 10,000 unless said.
    timeout_ms: Option<u64>,
    /// How many attempts may run at once, over all processes; 8 unless said.
    max_in_flight: Option<u16>,
    /// How many attempts may begin in a second, over all processes; no limit unless said.
    rate_per_s: Option<u16>,
    /// How long it is tried to tell of one session, in seconds; 72 hours unless said.
    horizon_s: Option<u64>,
    /// Statuses by which this provider means passing troubles.
    retry_statuses: Option<Vec<u16>>,
}

/// Who asks. A secret is never shown; left out it stays as long as it goes to the same host, null removes it.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct AuthTerms {
    /// How it is said.
    r#type: text::AuthKind,
    /// `bearer`: the token.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    token: Said<String>,
    /// `basic`: the user.
    username: Option<String>,
    /// `basic`: the password.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    password: Said<String>,
    /// `client_credentials`: where a token is asked for. Under `keycloak` that of the realm unless said.
    token_url: Option<String>,
    /// `client_credentials`: the client.
    client_id: Option<String>,
    /// `client_credentials`: its secret.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    client_secret: Said<String>,
    /// `client_credentials`: what is asked for.
    scope: Option<String>,
    /// `client_credentials`: how the secret is shown; `client_secret_basic` unless said.
    method: Option<text::ClientAuth>,
}

/// How a provider is told.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProviderLogoutView {
    /// Which of the ways.
    preset: text::PresetName,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audience: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<text::Method>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    body: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<text::BodyKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<Vec<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    realm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_url: Option<String>,
    /// Who asks.
    auth: AuthView,
    timeout_ms: u64,
    max_in_flight: u16,
    rate_per_s: Option<u16>,
    horizon_s: u64,
    retry_statuses: Vec<u16>,
}

/// Who asks, without the secret.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct AuthView {
    /// How it is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<text::AuthKind>,
    /// `bearer`: whether a token is registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_registered: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    /// `basic`: whether a password is registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    password_registered: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// `client_credentials`: whether a secret is registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret_registered: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<text::ClientAuth>,
}

/// What is said, put over what was there. The networks are those that are registered with it.
pub(super) fn apply(
    said: &Said<ProviderLogoutTerms>,
    record: IssuerRecord,
    before: &IssuerRecord,
    judge: &Judge<'_>,
) -> Result<IssuerRecord, Problem> {
    let provider_logout = match said {
        Said::Nothing => record.provider_logout.clone(),
        Said::Null => None,
        Said::Value(terms) => {
            let (mut logout, secret) = terms.read(judge.timeout_max).map_err(|problem| problem.under("/provider_logout"))?;
            logout.sealed = match secret {
                Secret::None => None,
                Secret::New(secret) => {
                    Some(judge.sealing.seal_text(&Sealed::provider_logout(&record.id), secret.as_bytes(), judge.entropy))
                }
                Secret::Kept(member) => kept(&logout, before.provider_logout.as_deref(), member)?,
            };
            Some(Arc::new(logout))
        }
    };
    // Also where only the networks changed.
    for (member, url) in provider_logout.iter().flat_map(|logout| logout.urls()) {
        judge.egress.check(url, &record.network).map_err(|bad| Problem::invalid(format!("/provider_logout/{member}"), bad))?;
    }
    Ok(IssuerRecord { provider_logout, ..record })
}

/// Who may change where a secret goes does not learn it: it is said anew for another host.
fn kept(logout: &ProviderLogout, before: Option<&ProviderLogout>, member: &'static str) -> Result<Option<String>, Problem> {
    let at = format!("/provider_logout/auth/{member}");
    match before.filter(|before| before.auth.kind() == logout.auth.kind()) {
        None => Err(Problem::invalid(at, "must be said")),
        // The token that a secret is changed for goes along with each request.
        Some(before)
            if before.secret_goes_to().origin() != logout.secret_goes_to().origin() || before.url().origin() != logout.url().origin() =>
        {
            Err(Problem::invalid(at, "must be said anew, since it would go to another host"))
        }
        Some(before) => Ok(before.sealed.clone()),
    }
}

/// What is said of the secret.
enum Secret {
    None,
    New(String),
    /// Nothing, so that it stays; its member.
    Kept(&'static str),
}

impl ProviderLogoutTerms {
    fn read(&self, timeout_max: Duration) -> Result<(ProviderLogout, Secret), Problem> {
        self.refuse_strays()?;
        let preset = self.preset()?;
        let (auth, secret) = self.auth(&preset)?;
        let timeout_ms_max = u64::try_from(timeout_max.as_millis()).unwrap_or(u64::MAX);
        let timeout_ms = bounded("/timeout_ms", self.timeout_ms, &(TIMEOUT_MS_MIN..=timeout_ms_max))?;
        let logout = ProviderLogout {
            preset,
            auth,
            sealed: None,
            timeout: timeout_ms.map_or(ProviderLogout::TIMEOUT.min(timeout_max), Duration::from_millis),
            max_in_flight: bounded("/max_in_flight", self.max_in_flight, &IN_FLIGHT)?.unwrap_or(ProviderLogout::MAX_IN_FLIGHT),
            rate_per_s: bounded("/rate_per_s", self.rate_per_s, &RATE_PER_S)?,
            horizon: bounded("/horizon_s", self.horizon_s, &HORIZON_S)?.map_or(ProviderLogout::HORIZON, Duration::from_secs),
            retry_statuses: statuses("/retry_statuses", self.retry_statuses.as_deref(), &RETRY_STATUSES, RETRY_STATUSES_MAX)?,
        };
        Ok((logout, secret))
    }

    /// A member of another preset is a misunderstanding, and silence about it another one.
    fn refuse_strays(&self) -> Result<(), Problem> {
        use PresetName::{Http, Hydra, Keycloak, Set};
        let members: [(&str, bool, &[PresetName]); 10] = [
            ("url", self.url.is_some(), &[Set, Http]),
            ("audience", self.audience.is_some(), &[Set]),
            ("method", self.method.is_some(), &[Http]),
            ("headers", self.headers.is_some(), &[Http]),
            ("body", self.body.is_some(), &[Http]),
            ("content_type", self.content_type.is_some(), &[Http]),
            ("success", self.success.is_some(), &[Http]),
            ("base_url", self.base_url.is_some(), &[Keycloak]),
            ("realm", self.realm.is_some(), &[Keycloak]),
            ("admin_url", self.admin_url.is_some(), &[Hydra]),
        ];
        let Text(preset) = self.preset;
        match members.into_iter().find(|(_, said, of)| *said && !of.contains(&preset)) {
            Some((member, ..)) => Err(Problem::invalid(format!("/{member}"), format!("does not belong to the preset {preset}"))),
            None => Ok(()),
        }
    }

    fn preset(&self) -> Result<Preset, Problem> {
        Ok(match self.preset.0 {
            PresetName::Set => {
                let url = parse_url(required("/url", self.url.as_deref())?).map_err(|bad| Problem::invalid("/url", bad))?;
                Preset::Set { url, audience: name("/audience", required("/audience", self.audience.as_deref())?)? }
            }
            PresetName::Http => Preset::Http(self.http()?),
            PresetName::Keycloak => Preset::Keycloak {
                base_url: base("/base_url", self.base_url.as_deref())?,
                realm: segment("/realm", required("/realm", self.realm.as_deref())?)?,
            },
            PresetName::Hydra => Preset::Hydra { admin_url: base("/admin_url", self.admin_url.as_deref())? },
        })
    }

    fn http(&self) -> Result<HttpCall, Problem> {
        let url = UrlTemplate::parse(required("/url", self.url.as_deref())?).map_err(|bad| Problem::invalid("/url", bad))?;
        let method = self.method.map_or(Method::Post, |text| text.0);
        let body = match (&self.body, self.content_type.map_or(BodyKind::Json, |text| text.0)) {
            (None | Some(Value::Null), _) => None,
            (Some(_), _) if method == Method::Get => return Err(Problem::invalid("/body", "cannot go with GET")),
            (Some(value), BodyKind::Json) => Some(Body::json(value.clone())),
            (Some(value), BodyKind::Form) => Some(Body::form(value.clone())),
        };
        let body = body.transpose().map_err(|bad| Problem::invalid("/body", bad))?;
        let headers = self.headers.iter().flatten().map(|(name, value)| header(name, value)).collect::<Result<Vec<_>, _>>()?;
        if headers.len() > HEADERS_MAX {
            return Err(Problem::invalid("/headers", format!("must not have more than {HEADERS_MAX} members")));
        }
        if let Some(twice) = headers.iter().enumerate().find(|(at, (name, _))| headers.iter().take(*at).any(|(before, _)| before == name)) {
            return Err(Problem::invalid("/headers", format!("must say {} once", twice.1.0)));
        }
        Ok(HttpCall { method, url, headers, body, success: statuses("/success", self.success.as_deref(), &SUCCESS, SUCCESS_MAX)? })
    }

    fn auth(&self, preset: &Preset) -> Result<(Auth, Secret), Problem> {
        let Some(said) = &self.auth else { return Ok((Auth::None, Secret::None)) };
        said.read(preset).map_err(|problem| problem.under("/auth"))
    }
}

impl AuthTerms {
    fn read(&self, preset: &Preset) -> Result<(Auth, Secret), Problem> {
        Ok(match self.r#type.0 {
            AuthKind::None => (Auth::None, Secret::None),
            AuthKind::Bearer => (Auth::Bearer, secret("token", &self.token)?),
            AuthKind::Basic => {
                let username = name("/username", required("/username", self.username.as_deref())?)?;
                // RFC 7617 2: a colon would begin the password.
                if username.contains(':') {
                    return Err(Problem::invalid("/username", "must not contain a colon"));
                }
                (Auth::Basic { username }, secret("password", &self.password)?)
            }
            AuthKind::ClientCredentials => {
                let auth = Auth::ClientCredentials {
                    token_url: self.token_url(preset)?,
                    client_id: name("/client_id", required("/client_id", self.client_id.as_deref())?)?,
                    scope: self.scope.as_deref().map(|scope| name("/scope", scope)).transpose()?,
                    method: self.method.map_or(ClientAuth::Basic, |text| text.0),
                };
                (auth, secret("client_secret", &self.client_secret)?)
            }
        })
    }

    fn token_url(&self, preset: &Preset) -> Result<Url, Problem> {
        let at = "/token_url";
        match (self.token_url.as_deref(), preset) {
            (Some(text), _) => parse_url(text).map_err(|bad| Problem::invalid(at, bad)),
            (None, Preset::Keycloak { base_url, realm }) => {
                let base = base_url.as_str().trim_end_matches('/');
                let text = format!("{base}/realms/{}/protocol/openid-connect/token", encoded(realm));
                parse_url(&text).map_err(|bad| Problem::invalid(at, bad))
            }
            (None, Preset::Set { .. } | Preset::Http(_) | Preset::Hydra { .. }) => Err(Problem::invalid(at, "must be said")),
        }
    }
}

fn required<'a>(at: &'static str, said: Option<&'a str>) -> Result<&'a str, Problem> {
    said.ok_or_else(|| Problem::invalid(at, "must be said"))
}

fn name(at: &'static str, text: &str) -> Result<String, Problem> {
    if (1..=NAME_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(Problem::invalid(at, format!("must have 1 to {NAME_CHARS_MAX} characters and no control characters")))
    }
}

/// One segment of a path, whatever it holds.
fn segment(at: &'static str, text: &str) -> Result<String, Problem> {
    match text {
        "." | ".." => Err(Problem::invalid(at, "must be a name")),
        _ => name(at, text),
    }
}

/// An URL that paths are put behind.
fn base(at: &'static str, said: Option<&str>) -> Result<Url, Problem> {
    let url = parse_url(required(at, said)?).map_err(|bad| Problem::invalid(at, bad))?;
    match UrlTemplate::parse(url.as_str()) {
        Ok(_) if url.query().is_none() => Ok(url),
        Ok(_) => Err(Problem::invalid(at, "must have no query")),
        Err(bad) => Err(Problem::invalid(at, bad)),
    }
}

fn header(name: &str, value: &str) -> Result<(String, Template), Problem> {
    let at = "/headers";
    let lower = name.to_ascii_lowercase();
    // RFC 9110 5.6.2
    let is_token = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet);
    if !(1..=HEADER_NAME_MAX).contains(&name.len()) || !name.bytes().all(is_token) {
        return Err(Problem::invalid(at, "must have names of headers as its members"));
    }
    if RESERVED_HEADERS.contains(&lower.as_str()) {
        return Err(Problem::invalid(at, format!("must not say {lower}, which is said by this server or in auth")));
    }
    if !value.bytes().all(|octet| (0x20..0x7f).contains(&octet)) {
        return Err(Problem::invalid(at, format!("must have printable ASCII characters as the value of {lower}")));
    }
    let template = Template::parse(value).map_err(|bad| Problem::invalid(at, bad))?;
    Ok((lower, template))
}

fn secret(member: &'static str, said: &Said<String>) -> Result<Secret, Problem> {
    match said {
        Said::Nothing => Ok(Secret::Kept(member)),
        Said::Null => Ok(Secret::None),
        Said::Value(secret)
            if !(1..=SECRET_BYTES_MAX * 4).contains(&secret.len()) || !secret.bytes().all(|o| (0x20..0x7f).contains(&o)) =>
        {
            Err(Problem::invalid(format!("/{member}"), format!("must be 1 to {} printable ASCII characters", SECRET_BYTES_MAX * 4)))
        }
        Said::Value(secret) => Ok(Secret::New(secret.clone())),
    }
}

fn statuses(at: &'static str, said: Option<&[u16]>, range: &RangeInclusive<u16>, max: usize) -> Result<Vec<u16>, Problem> {
    let said = said.unwrap_or_default();
    if said.len() > max {
        return Err(Problem::invalid(at, format!("must not have more than {max} items")));
    }
    for (index, status) in said.iter().enumerate() {
        bounded(&format!("{at}/{index}"), Some(*status), range)?;
    }
    let mut statuses = said.to_vec();
    statuses.sort_unstable();
    statuses.dedup();
    Ok(statuses)
}

impl ProviderLogoutView {
    /// Everything but the secret.
    pub(super) fn of(logout: &ProviderLogout) -> Self {
        let blank = Self {
            preset: logout.preset.name().into(),
            url: None,
            audience: None,
            method: None,
            headers: None,
            body: None,
            content_type: None,
            success: None,
            base_url: None,
            realm: None,
            admin_url: None,
            auth: AuthView::of(&logout.auth, logout.sealed.is_some()),
            timeout_ms: u64::try_from(logout.timeout.as_millis()).unwrap_or(u64::MAX),
            max_in_flight: logout.max_in_flight,
            rate_per_s: logout.rate_per_s,
            horizon_s: logout.horizon.as_secs(),
            retry_statuses: logout.retry_statuses.clone(),
        };
        match &logout.preset {
            Preset::Set { url, audience } => Self { url: Some(url.to_string()), audience: Some(audience.clone()), ..blank },
            Preset::Keycloak { base_url, realm } => Self { base_url: Some(base_url.to_string()), realm: Some(realm.clone()), ..blank },
            Preset::Hydra { admin_url } => Self { admin_url: Some(admin_url.to_string()), ..blank },
            Preset::Http(call) => Self {
                url: Some(call.url.as_str().to_owned()),
                method: Some(call.method.into()),
                headers: Some(call.headers.iter().map(|(name, value)| (name.clone(), value.as_str().to_owned())).collect()),
                body: call.body.as_ref().map(Body::to_value),
                content_type: call.body.as_ref().map(|body| Text(body.kind())),
                success: Some(call.success.clone()),
                ..blank
            },
        }
    }
}

impl AuthView {
    fn of(auth: &Auth, registered: bool) -> Self {
        let blank = Self { r#type: Some(auth.kind().into()), ..Self::default() };
        match auth {
            Auth::None => blank,
            Auth::Bearer => Self { token_registered: Some(registered), ..blank },
            Auth::Basic { username } => Self { username: Some(username.clone()), password_registered: Some(registered), ..blank },
            Auth::ClientCredentials { token_url, client_id, scope, method } => Self {
                token_url: Some(token_url.to_string()),
                client_id: Some(client_id.clone()),
                client_secret_registered: Some(registered),
                scope: scope.clone(),
                method: Some((*method).into()),
                ..blank
            },
        }
    }
}

/// What the audit trail keeps: where it leads and how, and of a secret whether there is one.
pub(super) fn told(logout: &ProviderLogout) -> Value {
    let urls: BTreeMap<_, _> = logout.urls().into_iter().map(|(member, url)| (member, url.as_str())).collect();
    json!({ "preset": logout.preset.name().as_str(), "urls": urls, "auth": logout.auth.kind().as_str(), "secret": logout.sealed.is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::parse_registration;

    const MAX: Duration = Duration::from_secs(20);

    fn read(body: &Value) -> Result<(ProviderLogout, Secret), Vec<String>> {
        let terms: ProviderLogoutTerms = parse_registration(body.to_string().as_bytes()).map_err(|_| vec!["shape".to_owned()])?.body;
        terms.read(MAX).map_err(|problem| problem.errors().iter().filter_map(|error| error.pointer.clone()).collect())
    }

    fn refused(body: &Value) -> Vec<String> {
        read(body).err().unwrap_or_else(|| panic!("{body} must be refused"))
    }

    #[test]
    fn each_preset_is_read_and_shown_as_it_was_said() {
        for body in [
            json!({"preset": "set", "url": "https://id.example/events", "audience": "id"}),
            json!({"preset": "http", "url": "https://id.example/s/{sid}?u={sub}", "method": "DELETE", "headers": {"x-realm": "{issuer}"},
                "body": {"a": ["{key}", 1]}, "content_type": "json", "success": [204, 404]}),
            json!({"preset": "http", "url": "https://id.example/logout", "method": "POST", "headers": {}, "body": {"a": "{sub}"}, "content_type": "form", "success": []}),
            json!({"preset": "keycloak", "base_url": "https://id.example/auth", "realm": "main"}),
            json!({"preset": "hydra", "admin_url": "https://hydra.example/"}),
        ] {
            let (logout, _) = read(&body).unwrap();
            let shown = serde_json::to_value(ProviderLogoutView::of(&logout)).unwrap();
            for (member, value) in body.as_object().unwrap() {
                assert_eq!(&shown[member], value, "{member}");
            }
            assert_eq!((&shown["timeout_ms"], &shown["max_in_flight"], &shown["horizon_s"]), (&json!(10_000), &json!(8), &json!(259_200)));
        }
    }

    #[test]
    fn each_bound_is_kept_and_names_its_member() {
        let http = |member: &str, value: Value| {
            let mut body = json!({"preset": "http", "url": "https://id.example/{sid}"});
            body[member] = value;
            body
        };
        let cases = [
            (json!({"preset": "set", "audience": "id"}), "/url"),
            (json!({"preset": "set", "url": "https://id.example/"}), "/audience"),
            (json!({"preset": "set", "url": "https://id.example/", "audience": "id", "realm": "x"}), "/realm"),
            (json!({"preset": "keycloak", "base_url": "https://id.example/"}), "/realm"),
            (json!({"preset": "keycloak", "base_url": "https://id.example/", "realm": ".."}), "/realm"),
            (json!({"preset": "keycloak", "base_url": "https://id.example/?a=b", "realm": "main"}), "/base_url"),
            (json!({"preset": "hydra", "admin_url": "nonsense"}), "/admin_url"),
            (http("url", json!("https://{sid}.example/")), "/url"),
            (http("headers", json!({"Authorization": "Bearer x"})), "/headers"),
            (http("headers", json!({"Host": "x"})), "/headers"),
            (http("headers", json!({"content-LENGTH": "3"})), "/headers"),
            (http("headers", json!({"x y": "3"})), "/headers"),
            (http("headers", json!({"x": "a\r\nb"})), "/headers"),
            (http("headers", json!({"x": "{name}"})), "/headers"),
            (http("headers", json!({"x": "1", "X": "2"})), "/headers"),
            (http("body", json!({"a": "{"})), "/body"),
            (http("success", json!([99])), "/success/0"),
            (http("timeout_ms", json!(20_001)), "/timeout_ms"),
            (http("max_in_flight", json!(0)), "/max_in_flight"),
            (http("rate_per_s", json!(0)), "/rate_per_s"),
            (http("horizon_s", json!(1)), "/horizon_s"),
            (http("retry_statuses", json!([200])), "/retry_statuses/0"),
            (http("auth", json!({"type": "basic", "username": "a:b", "password": "c"})), "/auth/username"),
            (http("auth", json!({"type": "bearer", "token": "a\nb"})), "/auth/token"),
            (http("auth", json!({"type": "client_credentials", "client_id": "a", "client_secret": "b"})), "/auth/token_url"),
        ];
        for (body, pointer) in cases {
            assert_eq!(refused(&body), [pointer], "{body}");
        }
        let mut with_get = http("method", json!("GET"));
        with_get["body"] = json!({"a": "b"});
        assert_eq!(refused(&with_get), ["/body"]);
    }

    #[test]
    fn a_secret_stays_as_long_as_it_goes_to_the_same_host_and_is_never_shown() {
        let body = |url: &str| json!({"preset": "http", "url": url, "auth": {"type": "bearer", "token": "hush-hush"}});
        let (mut before, secret) = read(&body("https://id.example/a")).unwrap();
        assert!(matches!(secret, Secret::New(secret) if secret == "hush-hush"));
        before.sealed = Some("sealed".to_owned());
        let (same, _) = read(&body("https://id.example/b")).unwrap();
        let (other, _) = read(&body("https://other.example/a")).unwrap();
        assert_eq!(kept(&same, Some(&before), "token").unwrap(), before.sealed);
        assert!(kept(&other, Some(&before), "token").is_err() && kept(&same, None, "token").is_err());
        let (basic, _) =
            read(&json!({"preset": "http", "url": "https://id.example/a", "auth": {"type": "basic", "username": "u", "password": "p"}}))
                .unwrap();
        assert!(kept(&basic, Some(&before), "password").is_err(), "another kind of secret");
        let shown = serde_json::to_string(&ProviderLogoutView::of(&before)).unwrap() + &told(&before).to_string();
        assert!(!shown.contains("hush") && !shown.contains("sealed") && shown.contains(r#""token_registered":true"#), "{shown}");
    }

    #[test]
    fn a_keycloak_client_asks_its_realm_for_a_token_unless_said_otherwise() {
        let body = json!({"preset": "keycloak", "base_url": "https://id.example/auth/", "realm": "a b",
            "auth": {"type": "client_credentials", "client_id": "logoutd", "client_secret": "s"}});
        let (logout, _) = read(&body).unwrap();
        let Auth::ClientCredentials { token_url, .. } = logout.auth else { panic!("{:?}", logout.auth) };
        assert_eq!(token_url.as_str(), "https://id.example/auth/realms/a%20b/protocol/openid-connect/token");
    }
}
