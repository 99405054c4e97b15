//! How a provider is told that one of its sessions ended here: whom to ask, in which words, and under whose name.
//!
//! A template is an operator's text with places for names. What stands in such a place is another's word, so a template never lets it become
//! anything but one value where the operator put it: not a host, not a further path segment, not a header, not a member of a body.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde_json::{Map, Value};
use url::Url;

use super::delivery::SettledReason;
use super::key::words;
use super::{Issuer, Malformed, ProviderKey, Sid, Subject, Timestamp};

/// What an issuer registered of its provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderLogout {
    /// What is said.
    pub preset: Preset,
    /// Under whose name.
    pub auth: Auth,
    /// The secret of that name, sealed; none where it has none.
    pub sealed: Option<String>,
    /// One attempt, a token for it included.
    pub timeout: Duration,
    /// How many attempts may run at once.
    pub max_in_flight: u16,
    /// How many attempts may begin in a second, over all processes; none sets no limit.
    pub rate_per_s: Option<u16>,
    /// How long it is tried to tell of one session.
    pub horizon: Duration,
    /// Statuses by which this provider means passing troubles.
    pub retry_statuses: Vec<u16>,
}

impl ProviderLogout {
    /// What a registration leaves out.
    pub const TIMEOUT: Duration = Duration::from_secs(10);
    /// What a registration leaves out.
    pub const MAX_IN_FLIGHT: u16 = 8;
    /// What a registration leaves out.
    pub const HORIZON: Duration = Duration::from_hours(72);
}

/// What is said, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preset {
    /// A signed event is pushed (RFC 8935).
    Set {
        /// Where to.
        url: Url,
        /// Its `aud`.
        audience: String,
    },
    /// A request of the operator's own making.
    Http(HttpCall),
    /// Keycloak's administration: the session is deleted.
    Keycloak {
        /// Where Keycloak is.
        base_url: Url,
        /// Which realm.
        realm: String,
    },
    /// Ory Hydra's administration: the login session is deleted, or all of the subject's where no `sid` is known.
    Hydra {
        /// Where its administration is.
        admin_url: Url,
    },
}

words! {
    /// The ways to tell a provider.
    PresetName, "a preset" {
        /// A signed event is pushed (RFC 8935).
        Set = "set",
        /// A request of the operator's own making.
        Http = "http",
        /// Keycloak's administration.
        Keycloak = "keycloak",
        /// Ory Hydra's administration.
        Hydra = "hydra",
    }
}

words! {
    /// What a body is.
    BodyKind, "a content type" {
        /// `application/json`.
        Json = "json",
        /// `application/x-www-form-urlencoded`.
        Form = "form",
    }
}

words! {
    /// The ways to say who asks.
    AuthKind, "a type" {
        /// Not at all.
        None = "none",
        /// By a token that does not change (RFC 6750 2.1).
        Bearer = "bearer",
        /// By a user and a password (RFC 7617).
        Basic = "basic",
        /// By a token that is asked for first (RFC 6749 4.4).
        ClientCredentials = "client_credentials",
    }
}

impl Auth {
    /// Which of the ways it is.
    pub const fn kind(&self) -> AuthKind {
        match self {
            Self::None => AuthKind::None,
            Self::Bearer => AuthKind::Bearer,
            Self::Basic { .. } => AuthKind::Basic,
            Self::ClientCredentials { .. } => AuthKind::ClientCredentials,
        }
    }
}

impl Preset {
    /// Its name.
    pub const fn name(&self) -> PresetName {
        match self {
            Self::Set { .. } => PresetName::Set,
            Self::Http(_) => PresetName::Http,
            Self::Keycloak { .. } => PresetName::Keycloak,
            Self::Hydra { .. } => PresetName::Hydra,
        }
    }
}

/// A request of the operator's own making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCall {
    /// How.
    pub method: Method,
    /// Where to.
    pub url: UrlTemplate,
    /// With which headers.
    pub headers: Vec<(String, Template)>,
    /// With which body.
    pub body: Option<Body>,
    /// The statuses that mean success; none means every 2xx.
    pub success: Vec<u16>,
}

words! {
    /// The methods a provider can be asked with.
    Method, "a method" {
        /// Asks for something to be done.
        Post = "POST",
        /// Sets something.
        Put = "PUT",
        /// Takes something away.
        Delete = "DELETE",
        /// Changes something.
        Patch = "PATCH",
        /// For those who log out by a link.
        Get = "GET",
    }
}

words! {
    /// How a client shows its secret to a token endpoint (RFC 6749 2.3.1).
    ClientAuth, "a method" {
        /// In the header.
        Basic = "client_secret_basic",
        /// In the form.
        Post = "client_secret_post",
    }
}

/// Under whose name a provider is asked. The secret is kept apart, sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Nobody's.
    None,
    /// Whoever holds a token that does not change.
    Bearer,
    /// A user with a password.
    Basic {
        /// The user.
        username: String,
    },
    /// A client that asks for a token first (RFC 6749 4.4).
    ClientCredentials {
        /// Where it asks.
        token_url: Url,
        /// Who it is.
        client_id: String,
        /// What it asks for.
        scope: Option<String>,
        /// How it shows its secret.
        method: ClientAuth,
    },
}

/// What is known of the session that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionNames<'a> {
    /// Whose issuer it was.
    pub issuer: &'a Issuer,
    /// Who it was.
    pub sub: Option<&'a Subject>,
    /// The provider's `sid`.
    pub sid: Option<&'a Sid>,
    /// The provider's own key.
    pub key: Option<&'a ProviderKey>,
}

/// By what one request names a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaches {
    /// By a name of its own: no other session is meant.
    TheSession,
    /// By its subject alone: all sessions of that person are meant.
    TheSubject,
}

words! {
    /// A place in a template.
    Place, "a placeholder" {
        /// The provider's `sub`.
        Sub = "sub",
        /// The provider's `sid`.
        Sid = "sid",
        /// The issuer, to the letter.
        Issuer = "issuer",
        /// The provider's own key of a session.
        Key = "key",
    }
}

impl Place {
    /// Why nothing can be said where its name is not known.
    pub const fn unknown(self) -> SettledReason {
        match self {
            Self::Sub => SettledReason::NoSub,
            Self::Sid | Self::Key | Self::Issuer => SettledReason::NoSid,
        }
    }
}

impl<'a> SessionNames<'a> {
    /// What stands in a place; none when it is not known.
    pub fn at(&self, place: Place) -> Option<&'a str> {
        match place {
            Place::Sub => self.sub.map(Subject::as_str),
            Place::Sid => self.sid.map(Sid::as_str),
            Place::Issuer => Some(self.issuer.as_str()),
            Place::Key => self.key.map(ProviderKey::as_str),
        }
    }
}

/// Why a request cannot be made about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsayable {
    /// A name that it takes is not known.
    #[error("the {0} of the session is not known")]
    Unknown(Place),
    /// A name would not stay one value where it stands.
    #[error("a name of the session cannot stand where the template wants it")]
    Unfit,
}

/// A text with places for names, in no context yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(Place),
}

const UNKNOWN_PLACE: Malformed = Malformed { what: "a template", why: "must have no braces but {sub}, {sid}, {issuer} and {key}" };

/// The longest template, in octets.
pub const TEMPLATE_OCTETS_MAX: usize = 2048;

impl Template {
    /// Reads a text with `{sub}`, `{sid}`, `{issuer}` and `{key}`.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.len() > TEMPLATE_OCTETS_MAX {
            return Err(Malformed { what: "a template", why: "must not be longer than 2,048 octets" });
        }
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, from)) = rest.split_once('{') {
            let (name, after) = from.split_once('}').ok_or(UNKNOWN_PLACE)?;
            let place = Place::parse(name).map_err(|_| UNKNOWN_PLACE)?;
            parts.extend(literal(before)?);
            parts.push(Part::Place(place));
            rest = after;
        }
        parts.extend(literal(rest)?);
        Ok(Self { text: text.to_owned(), parts })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The places in it.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Place(place) => Some(*place),
        })
    }

    /// With each name as `write` puts it down.
    fn filled(&self, names: &SessionNames<'_>, write: impl Fn(&str, &mut String)) -> Result<String, Unsayable> {
        let mut filled = String::with_capacity(self.text.len() + 64);
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Place(place) => write(names.at(*place).ok_or(Unsayable::Unknown(*place))?, &mut filled),
            }
        }
        Ok(filled)
    }

    /// With each name to the letter.
    pub fn plain(&self, names: &SessionNames<'_>) -> Result<String, Unsayable> {
        self.filled(names, |name, filled| filled.push_str(name))
    }

    /// A header's value: no control character ends it.
    pub fn header_value(&self, names: &SessionNames<'_>) -> Result<String, Unsayable> {
        let value = self.plain(names)?;
        if value.chars().any(char::is_control) { Err(Unsayable::Unfit) } else { Ok(value) }
    }
}

fn literal(text: &str) -> Result<Option<Part>, Malformed> {
    if text.contains(['{', '}']) {
        return Err(UNKNOWN_PLACE);
    }
    Ok((!text.is_empty()).then(|| Part::Text(text.to_owned())))
}

/// Everything but the unreserved characters as octets in hexadecimal (RFC 3986 2.1).
fn percent_encoded(value: &str, encoded: &mut String) {
    for octet in value.bytes() {
        if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(octet));
        } else {
            write!(encoded, "%{octet:02X}").expect("a string takes whatever is written");
        }
    }
}

/// One value, encoded to stand in a path or a query.
pub fn encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    percent_encoded(value, &mut encoded);
    encoded
}

/// A template of an URL: scheme, host and port are the operator's to the letter, and so is the number of path segments.
#[derive(Clone, PartialEq, Eq)]
pub struct UrlTemplate {
    template: Template,
    /// With every name a harmless one.
    example: Url,
}

impl fmt::Debug for UrlTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.template.as_str())
    }
}

/// What stands in every place of the example.
const EXAMPLE: &str = "x";

impl UrlTemplate {
    /// Reads an absolute `http(s)` URL with places in its path and its query alone.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        const WHAT: &str = "a template of an URL";
        let refuse = |why| Err(Malformed { what: WHAT, why });
        let template = Template::parse(text)?;
        // A backslash is a slash to browsers and their libraries, and a tab is nothing.
        if !text.bytes().all(|octet| (0x21..0x7f).contains(&octet)) || text.contains(['\\', '"', '<', '>', '^', '`', '|']) {
            return refuse("must consist of the characters of an URL");
        }
        if text.contains('#') {
            return refuse("must have no fragment");
        }
        let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
            return refuse("must begin with https:// (or http://, for development)");
        };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.is_empty() || authority.contains(['{', '}', '@', '%']) {
            return refuse("must have a host of its own, with no user and no placeholder");
        }
        let example =
            template.parts.iter().map(|part| if let Part::Text(text) = part { text.as_str() } else { EXAMPLE }).collect::<String>();
        match Url::parse(&example) {
            // What another reading would move is not what the operator sees.
            Ok(url) if url.path().len() == path_of(&example).len().max(1) => Ok(Self { template, example: url }),
            Ok(_) => refuse("must have a path without . and .. segments"),
            Err(_) => refuse("must be an absolute URL"),
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        self.template.as_str()
    }

    /// The places in it.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.template.places()
    }

    /// An URL of its kind, to see where it leads.
    pub const fn example(&self) -> &Url {
        &self.example
    }

    /// The URL about one session: each name is one value where the operator put it.
    pub fn filled(&self, names: &SessionNames<'_>) -> Result<Url, Unsayable> {
        let text = self.template.filled(names, percent_encoded)?;
        if path_of(&text).split('/').skip(1).any(is_dots) || self.has_emptied(names) {
            return Err(Unsayable::Unfit);
        }
        let url = Url::parse(&text).map_err(|_| Unsayable::Unfit)?;
        if is_alike(&url, &self.example) { Ok(url) } else { Err(Unsayable::Unfit) }
    }

    /// A name that is nothing would join its neighbours.
    fn has_emptied(&self, names: &SessionNames<'_>) -> bool {
        self.places().any(|place| names.at(place).is_some_and(str::is_empty))
    }
}

/// Same scheme, host, port and number of path segments.
fn is_alike(one: &Url, other: &Url) -> bool {
    let segments = |url: &Url| url.path_segments().map(Iterator::count);
    one.origin() == other.origin() && segments(one) == segments(other) && one.fragment().is_none() && one.username().is_empty()
}

/// The path of an absolute URL as it is written.
fn path_of(text: &str) -> &str {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let rest = rest.split('?').next().unwrap_or_default();
    rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default()
}

/// `.` and `..`, which lead elsewhere, also in the form in which they are octets.
fn is_dots(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}

/// A body with places for names in its strings: what is around them is data, never text that could be broken out of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// JSON, whose strings are templates.
    Json(Value),
    /// The fields of a form.
    Form(Vec<(String, Template)>),
}

/// How deep a JSON body may be.
const DEPTH_MAX: usize = 16;
/// The largest body, in octets, as it is registered.
pub const BODY_OCTETS_MAX: usize = 8 * 1024;

impl Body {
    /// JSON whose strings are templates; the names of members are not.
    pub fn json(value: Value) -> Result<Self, Malformed> {
        check_json(&value, DEPTH_MAX)?;
        bounded_body(&value)?;
        Ok(Self::Json(value))
    }

    /// An object of strings, each a template.
    pub fn form(value: Value) -> Result<Self, Malformed> {
        const WHY: Malformed = Malformed { what: "a form", why: "must be an object whose members are strings" };
        bounded_body(&value)?;
        let Value::Object(members) = value else { return Err(WHY) };
        let field = |(name, value): (String, Value)| match value {
            Value::String(text) => Ok((name, Template::parse(&text)?)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Err(WHY),
        };
        Ok(Self::Form(members.into_iter().map(field).collect::<Result<_, _>>()?))
    }

    /// As it was registered.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Json(value) => value.clone(),
            Self::Form(fields) => {
                Value::Object(fields.iter().map(|(name, template)| (name.clone(), Value::String(template.as_str().to_owned()))).collect())
            }
        }
    }

    /// What it is.
    pub const fn kind(&self) -> BodyKind {
        match self {
            Self::Json(_) => BodyKind::Json,
            Self::Form(_) => BodyKind::Form,
        }
    }

    /// Its media type.
    pub const fn content_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json",
            Self::Form(_) => "application/x-www-form-urlencoded",
        }
    }

    /// The places in it.
    pub fn places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        match self {
            Self::Json(value) => places_of(value, &mut places),
            Self::Form(fields) => places.extend(fields.iter().flat_map(|(_, template)| template.places())),
        }
        places
    }

    /// The body about one session.
    pub fn filled(&self, names: &SessionNames<'_>) -> Result<String, Unsayable> {
        match self {
            Self::Json(value) => Ok(filled_json(value, names)?.to_string()),
            Self::Form(fields) => {
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                for (name, template) in fields {
                    form.append_pair(name, &template.plain(names)?);
                }
                Ok(form.finish())
            }
        }
    }
}

fn bounded_body(value: &Value) -> Result<(), Malformed> {
    if value.to_string().len() > BODY_OCTETS_MAX {
        return Err(Malformed { what: "a body", why: "must not be longer than 8,192 octets" });
    }
    Ok(())
}

fn check_json(value: &Value, depth: usize) -> Result<(), Malformed> {
    if depth == 0 {
        return Err(Malformed { what: "a body", why: "must not be deeper than 16 levels" });
    }
    match value {
        Value::String(text) => Template::parse(text).map(|_| ()),
        Value::Array(items) => items.iter().try_for_each(|item| check_json(item, depth - 1)),
        Value::Object(members) => members.values().try_for_each(|member| check_json(member, depth - 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn places_of(value: &Value, places: &mut Vec<Place>) {
    match value {
        // It was checked when it was registered.
        Value::String(text) => places.extend(Template::parse(text).iter().flat_map(Template::places)),
        Value::Array(items) => items.iter().for_each(|item| places_of(item, places)),
        Value::Object(members) => members.values().for_each(|member| places_of(member, places)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn filled_json(value: &Value, names: &SessionNames<'_>) -> Result<Value, Unsayable> {
    Ok(match value {
        Value::String(text) => Value::String(Template::parse(text).map_err(|_| Unsayable::Unfit)?.plain(names)?),
        Value::Array(items) => Value::Array(items.iter().map(|item| filled_json(item, names)).collect::<Result<_, _>>()?),
        Value::Object(members) => {
            let filled = members.iter().map(|(name, member)| Ok((name.clone(), filled_json(member, names)?)));
            Value::Object(filled.collect::<Result<Map<_, _>, Unsayable>>()?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    })
}

impl HttpCall {
    /// The places in all of it.
    pub fn places(&self) -> Vec<Place> {
        let headers = self.headers.iter().flat_map(|(_, template)| template.places());
        self.url.places().chain(headers).chain(self.body.iter().flat_map(Body::places)).collect()
    }
}

impl ProviderLogout {
    /// An URL of the kind that is asked, to see where it leads.
    pub fn url(&self) -> &Url {
        match &self.preset {
            Preset::Set { url, .. } => url,
            Preset::Http(call) => call.url.example(),
            Preset::Keycloak { base_url, .. } => base_url,
            Preset::Hydra { admin_url } => admin_url,
        }
    }

    /// Where its secret goes: to the token endpoint, or along with each request.
    pub fn secret_goes_to(&self) -> &Url {
        match &self.auth {
            Auth::ClientCredentials { token_url, .. } => token_url,
            Auth::None | Auth::Bearer | Auth::Basic { .. } => self.url(),
        }
    }

    /// Every URL it leads to, with the member it was registered under.
    pub fn urls(&self) -> Vec<(&'static str, &Url)> {
        let member = match &self.preset {
            Preset::Set { .. } | Preset::Http(_) => "url",
            Preset::Keycloak { .. } => "base_url",
            Preset::Hydra { .. } => "admin_url",
        };
        let token = match &self.auth {
            Auth::ClientCredentials { token_url, .. } => Some(("auth/token_url", token_url)),
            Auth::None | Auth::Bearer | Auth::Basic { .. } => None,
        };
        std::iter::once((member, self.url())).chain(token).collect()
    }

    /// What a request reaches at the provider.
    pub fn reaches(&self, names: &SessionNames<'_>) -> Reaches {
        let by_name = match &self.preset {
            Preset::Set { .. } => names.sid.is_some() || names.key.is_some(),
            Preset::Http(call) => call.places().iter().any(|place| matches!(place, Place::Sid | Place::Key)),
            Preset::Keycloak { .. } => true,
            Preset::Hydra { .. } => names.sid.is_some(),
        };
        if by_name { Reaches::TheSession } else { Reaches::TheSubject }
    }

    /// A name that a request takes and that is not known of this session.
    pub fn lacks(&self, names: &SessionNames<'_>) -> Option<Place> {
        let unknown = |place: &Place| names.at(*place).is_none();
        match &self.preset {
            Preset::Http(call) => call.places().into_iter().find(unknown),
            Preset::Keycloak { .. } => Some(Place::Sid).filter(unknown),
            Preset::Set { .. } | Preset::Hydra { .. } => {
                let nameless = names.sid.is_none() && names.sub.is_none() && names.key.is_none();
                let only_key = matches!(self.preset, Preset::Hydra { .. }) && names.sid.is_none() && names.sub.is_none();
                (nameless || only_key).then_some(Place::Sub)
            }
        }
    }

    /// When it is given up to tell of a session that ended now.
    pub fn horizon_at(&self, now: Timestamp) -> Timestamp {
        now.plus(self.horizon)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const TEMPLATE: &str = "https://id.example:8443/admin/users/{sub}/sessions/a{sid}?by={issuer}&key={key}";

    fn issuer() -> Issuer {
        Issuer::parse("https://id.example/realms/Main/").unwrap()
    }

    fn filled(template: &str, sub: &str, sid: &str) -> Result<Url, Unsayable> {
        let (issuer, sub, sid, key) =
            (issuer(), Subject::stored(sub.to_owned()), Sid::stored(sid.to_owned()), ProviderKey::parse("k/1").unwrap());
        let names = SessionNames { issuer: &issuer, sub: Some(&sub), sid: Some(&sid), key: Some(&key) };
        UrlTemplate::parse(template).unwrap().filled(&names)
    }

    #[test]
    fn a_name_is_one_value_where_the_operator_put_it() {
        let url = filled(TEMPLATE, "../../admin?x=#%2f", "s 1/ü").unwrap();
        assert_eq!(
            url.as_str(),
            "https://id.example:8443/admin/users/..%2F..%2Fadmin%3Fx%3D%23%252f/sessions/as%201%2F%C3%BC?by=https%3A%2F%2Fid.example%2Frealms%2FMain%2F&key=k%2F1"
        );
    }

    #[test]
    fn a_name_that_would_lead_elsewhere_is_refused() {
        for (template, sub) in [
            ("https://id.example/{sub}", "."),
            ("https://id.example/{sub}", ".."),
            ("https://id.example/{sub}", ""),
            ("https://id.example/.{sub}", "."),
            ("https://id.example/%2e{sub}", "."),
            ("https://id.example/{sub}.", "."),
            ("https://id.example/{sub}{sub}", "."),
            ("https://id.example/a/{sub}/b", ".."),
            ("https://id.example/?q={sub}", ""),
        ] {
            assert_eq!(filled(template, sub, "s-1"), Err(Unsayable::Unfit), "{template} {sub}");
        }
        assert_eq!(filled("https://id.example/{sub}", "...", "s-1").unwrap().path(), "/...");
        assert_eq!(filled("https://id.example/{sub}", "%2e%2e", "s-1").unwrap().path(), "/%252e%252e");
    }

    #[test]
    fn a_template_has_places_in_its_path_and_query_alone() {
        for template in [
            "https://{sub}.example/",
            "https://id.example:{sub}/",
            "https://user@id.example/{sub}",
            "https://{sub}@id.example/",
            "{issuer}/sessions",
            "/sessions/{sid}",
            "ftp://id.example/{sid}",
            "HTTPS://id.example/{sid}",
            "https://id.example/{sid}#top",
            "https://id.example\\{sid}",
            "https://id.example/a b/{sid}",
            "https://id.example/../{sid}",
            "https://id.example/%2e%2E/{sid}",
            "https://id.example/{sid",
            "https://id.example/sid}",
            "https://id.example/{SID}",
            "https://id.example/{}",
            "https:///{sid}",
            "https://id.%65xample/{sid}",
        ] {
            assert!(UrlTemplate::parse(template).is_err(), "{template}");
        }
        for template in ["https://id.example", "https://id.example?s={sid}", "http://127.0.0.1:8080/{sid}/"] {
            assert!(UrlTemplate::parse(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn what_is_not_known_is_never_left_out() {
        let issuer = issuer();
        let names = SessionNames { issuer: &issuer, sub: None, sid: None, key: None };
        for place in [Place::Sub, Place::Sid, Place::Key] {
            let template = UrlTemplate::parse(&format!("https://id.example/{{{place}}}")).unwrap();
            assert_eq!(template.filled(&names), Err(Unsayable::Unknown(place)));
        }
    }

    #[test]
    fn a_body_is_data_with_names_in_its_strings() {
        let (issuer, sub) = (issuer(), Subject::stored("a\",\"admin\":\"b&c=d".to_owned()));
        let names = SessionNames { issuer: &issuer, sub: Some(&sub), sid: None, key: None };
        let json = Body::json(json!({"user": "u:{sub}", "n": 1, "deep": [{"iss": "{issuer}"}]})).unwrap();
        let read: Value = serde_json::from_str(&json.filled(&names).unwrap()).unwrap();
        assert_eq!(read, json!({"user": "u:a\",\"admin\":\"b&c=d", "n": 1, "deep": [{"iss": "https://id.example/realms/Main/"}]}));
        let form = Body::form(json!({"user": "{sub}", "all": "1"})).unwrap().filled(&names).unwrap();
        let fields: Vec<(String, String)> = url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
        assert_eq!(fields.len(), 2, "{form}");
        assert!(fields.contains(&("user".to_owned(), "a\",\"admin\":\"b&c=d".to_owned())), "{form}");
        for bad in [json!({"user": "{name}"}), json!(["{"]), json!("x".repeat(BODY_OCTETS_MAX))] {
            assert!(Body::json(bad).is_err());
        }
        for bad in [json!({"user": 1}), json!("user={sub}"), json!({"user": {"a": "b"}})] {
            assert!(Body::form(bad).is_err());
        }
    }

    #[test]
    fn no_control_character_enters_a_header() {
        let (issuer, sub) = (issuer(), Subject::stored("a\r\nhost: other".to_owned()));
        let names = SessionNames { issuer: &issuer, sub: Some(&sub), sid: None, key: None };
        assert_eq!(Template::parse("user {sub}").unwrap().header_value(&names), Err(Unsayable::Unfit));
    }

    proptest! {
        #[test]
        fn whatever_the_names_are_the_url_leads_to_the_same_place_and_says_them_to_the_letter(
            sub in "\\PC{1,60}", sid in "[ -~]{1,60}", sly in prop::sample::select(&["..", ".", "../..", "%2e%2e", "//evil.example/", "\\\\evil", "?a=b", "#f", "@evil", ";x"][..]),
            mixed in any::<bool>(),
        ) {
            let sub = if mixed { format!("{sly}{sub}") } else { sub };
            prop_assume!(!matches!(sub.as_str(), "." | ".."));
            let example = filled(TEMPLATE, "x", "x").unwrap();
            let url = filled(TEMPLATE, &sub, &sid).unwrap();
            prop_assert_eq!((url.scheme(), url.host_str(), url.port()), (example.scheme(), example.host_str(), example.port()));
            let segments: Vec<&str> = url.path_segments().unwrap().collect();
            prop_assert_eq!(segments.len(), 5);
            let decoded = |text: &str| url::form_urlencoded::parse(text.replace('+', "%2B").as_bytes()).next().unwrap().0.into_owned();
            prop_assert_eq!(decoded(segments[2]), sub);
            prop_assert_eq!(decoded(segments[4]), format!("a{sid}"));
            let query: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            let issuer = issuer();
            let expected = [("by".to_owned(), issuer.as_str().to_owned()), ("key".to_owned(), "k/1".to_owned())];
            prop_assert_eq!(&query[..], &expected[..]);
            prop_assert!(url.fragment().is_none() && url.username().is_empty());
        }
    }
}
