//! Who is calling, and whether they may.
//!
//! A handler names what it needs in its signature: [`At<needs::Kill>`](At) for a route below an issuer, [`Anywhere<needs::ReadAudit>`](Anywhere) for
//! what belongs to none, [`OauthAt<needs::Introspect>`](super::client_auth::OauthAt) at an OAuth endpoint. So it is decided before the body is read and
//! before the caller is told whether the issuer exists. [`Authenticated`] is for routes that decide by more than that.

use std::marker::PhantomData;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use self::needs::Need;
use super::line::{Line, Note};
use super::origin::origin;
use super::problem::{Challenge, Code, Problem};
use super::state::AppState;
use super::throttle::{Judged, Suspect};
use super::uses::note;
use super::wire::Written;
use crate::model::access::{ApiTokenRecord, Behalf, Caller, Edition, OwnToken, Permission, Role, ShownApiToken};
use crate::model::issuer::IssuerRecord;
use crate::model::limits::Load;
use crate::model::{Digest, IssuerId, Timestamp};
use crate::observe::{AuthenticationFailed, Refusal, traces};
use crate::store::StoreError;
use crate::token::{digest_of_token, digests_match};

/// A caller who showed a good API token.
#[derive(Clone, Debug)]
pub struct Authenticated(pub Caller);

impl FromRequestParts<AppState> for Authenticated {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        authenticated(parts, app, Load::Other).await.map(Self)
    }
}

async fn authenticated(parts: &Parts, app: &AppState, load: Load) -> Result<Caller, Problem> {
    let remote = remote(parts);
    match credentials(&parts.headers)? {
        Credentials::Bearer(token) => {
            let caller = identify(app, &token, remote, Challenge::InvalidToken, load).await?;
            Ok(Caller { behalf: behalf(&parts.headers)?, ..caller })
        }
        Credentials::None => Err(refuse(Refusal::Missing, remote, Challenge::Bearer)),
        // Basic is for OAuth endpoints, whose clients know nothing else.
        Credentials::Basic { .. } | Credentials::Other => Err(refuse(Refusal::Malformed, remote, Challenge::Bearer)),
    }
}

/// A caller at an issuer where it may do what it came for.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Who.
    pub caller: Caller,
    /// Where.
    pub issuer: IssuerRecord,
}

/// What routes ask for, as types.
pub mod needs {
    use crate::model::access::Permission;

    /// A permission as a type.
    pub trait Need {
        /// The permission.
        const PERMISSION: Permission;
    }

    macro_rules! needs {
        ($($name:ident)*) => { $(
            #[doc = concat!("[`Permission::", stringify!($name), "`].")]
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}

            impl Need for $name {
                const PERMISSION: Permission = Permission::$name;
            }
        )* };
    }

    needs!(Report ReadSessions Kill Undo ReadLogouts ReadDeliveries Introspect RevokeTokens SubjectSecrets Operate RetryDeliveries TestClients ReadRegistry Administer ManageApiTokens ReadApiTokens ManageKeys Erase ReadAudit ReadMetrics);
}

/// A caller who may do it at the issuer the path names as `{iss}`.
#[derive(Debug)]
pub struct At<N>(pub Seat, pub PhantomData<N>);

impl<N: Need> FromRequestParts<AppState> for At<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let caller = authenticated(parts, app, N::PERMISSION.load()).await?;
        Ok(Self(seat(caller, app, N::PERMISSION, &issuer_of_path(parts).await?).await?, PhantomData))
    }
}

/// A caller who may do it where no issuer is involved.
#[derive(Debug)]
pub struct Anywhere<N>(pub Caller, pub PhantomData<N>);

impl<N: Need> FromRequestParts<AppState> for Anywhere<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let caller = authenticated(parts, app, N::PERMISSION.load()).await?;
        if !caller.may(N::PERMISSION, None) {
            return Err(forbidden(&caller, N::PERMISSION));
        }
        check_edition(&caller, N::PERMISSION)?;
        Ok(Self(caller, PhantomData))
    }
}

/// A caller who may do it somewhere: at its own issuer if it has one, else everywhere. The handler confines it to [`Caller::issuer`].
#[derive(Debug)]
pub struct Somewhere<N>(pub Caller, pub PhantomData<N>);

impl<N: Need> FromRequestParts<AppState> for Somewhere<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let caller = authenticated(parts, app, N::PERMISSION.load()).await?;
        if !caller.role.may(N::PERMISSION) {
            return Err(forbidden(&caller, N::PERMISSION));
        }
        check_edition(&caller, N::PERMISSION)?;
        Ok(Self(caller, PhantomData))
    }
}

pub(super) async fn issuer_of_path(parts: &mut Parts) -> Result<String, Problem> {
    let unreadable = || Problem::new(Code::MalformedRequest, "the path is not percent-encoded UTF-8");
    let path = axum::extract::RawPathParams::from_request_parts(parts, &()).await.map_err(|_| unreadable())?;
    path.iter().find(|(name, _)| *name == "iss").map(|(_, iss)| iss.to_owned()).ok_or_else(|| Problem::of(Code::UnknownIssuer))
}

pub(super) async fn seat(caller: Caller, app: &AppState, permission: Permission, iss: &str) -> Result<Seat, Problem> {
    match admit(&caller, permission, iss)? {
        Some(id) => match app.store.issuer(&id).await? {
            Some(issuer) => {
                let now = app.clock.now();
                match permission.load() {
                    // Until it has been read nobody knows whether it is an order: what is none must not take the place of one.
                    Load::Ending => app.limiter.has_room(&issuer.id, &caller, now)?,
                    load @ (Load::GivingUp | Load::Other) => app.limiter.issuer(&issuer.id, &caller, load, now)?,
                }
                Ok(Seat { caller, issuer })
            }
            None => Err(Problem::of(Code::UnknownIssuer)),
        },
        None => Err(Problem::of(Code::UnknownIssuer)),
    }
}

/// Whether the caller may do it at what the path names; none when nothing can have that name.
fn admit(caller: &Caller, permission: Permission, iss: &str) -> Result<Option<IssuerId>, Problem> {
    let id = IssuerId::parse(iss).ok();
    let may = match &id {
        Some(id) => caller.may(permission, Some(id)),
        None => caller.may(permission, None),
    };
    if !may {
        return Err(forbidden(caller, permission));
    }
    check_edition(caller, permission)?;
    Ok(id)
}

/// Whether the value that was shown may do it: one that was replaced may do nothing that lasts longer than its overlap.
fn check_edition(caller: &Caller, permission: Permission) -> Result<(), Problem> {
    match (caller.token.edition, permission.ends_with_an_overlap()) {
        (Edition::Previous, false) => Err(Problem::forbidden("this value of the token was replaced: use the new one")),
        (Edition::Previous, true) | (Edition::Current, _) => Ok(()),
    }
}

/// Says which roles may, or that the caller is bound to an issuer of its own: nothing that depends on what was asked for.
fn forbidden(caller: &Caller, permission: Permission) -> Problem {
    match (&caller.issuer, caller.role.may(permission)) {
        (Some(own), true) => Problem::forbidden(format!("this token is for the issuer {own} alone")),
        (_, true | false) => {
            let roles: Vec<_> = Role::ALL.iter().filter(|role| role.may(permission)).map(|role| role.as_str()).collect();
            let (one, several) = ("this needs the role", "this needs one of the roles");
            Problem::forbidden(format!("{} {}", if roles.len() == 1 { one } else { several }, roles.join(", ")))
        }
    }
}

/// An issuer that anybody may ask about: its keys and its metadata.
pub async fn public_issuer(app: &AppState, iss: &str) -> Result<IssuerRecord, Problem> {
    let unknown = || Problem::of(Code::UnknownIssuer);
    let id = IssuerId::parse(iss).map_err(|_| unknown())?;
    app.store.issuer(&id).await?.ok_or_else(unknown)
}

/// What a request's one `Authorization` header says.
#[derive(PartialEq, Eq)]
pub(super) enum Credentials {
    None,
    Bearer(String),
    Basic { user: String, password: String },
    Other,
}

/// The longest credential that is looked at, in octets.
const CREDENTIAL_BYTES_MAX: usize = 4096;

pub(super) fn credentials(headers: &HeaderMap) -> Result<Credentials, Problem> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (only, more) = (given.next(), given.next());
    if more.is_some() {
        return Err(Problem::invalid_header(&AUTHORIZATION, "must not appear twice"));
    }
    let Some(value) = only else { return Ok(Credentials::None) };
    let parts = value.to_str().ok().filter(|text| text.len() <= CREDENTIAL_BYTES_MAX).and_then(|text| text.split_once(' '));
    let Some((scheme, credential)) = parts else { return Ok(Credentials::Other) };
    let credential = credential.trim();
    Ok(match scheme {
        scheme if scheme.eq_ignore_ascii_case("bearer") => Credentials::Bearer(credential.to_owned()),
        scheme if scheme.eq_ignore_ascii_case("basic") => {
            basic(credential).map_or(Credentials::Other, |(user, password)| Credentials::Basic { user, password })
        }
        _ => Credentials::Other,
    })
}

/// RFC 7617 2: a user name has no colon.
fn basic(credential: &str) -> Option<(String, String)> {
    let plain = String::from_utf8(STANDARD.decode(credential).ok()?).ok()?;
    plain.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

/// On whose behalf something is asked for.
const ACTOR: HeaderName = HeaderName::from_static("logoutd-actor");
/// Why.
const NOTE: HeaderName = HeaderName::from_static("logoutd-note");

/// What a caller says for the audit trail. A header names a person as well as a member of a body does, and every route has headers.
fn behalf(headers: &HeaderMap) -> Result<Behalf, Problem> {
    Ok(Behalf { actor: said::<Line>(headers, &ACTOR)?.map(Line::into_string), note: said::<Note>(headers, &NOTE)?.map(Note::into_string) })
}

/// A header's one value, in UTF-8.
fn said<T: Written>(headers: &HeaderMap, name: &HeaderName) -> Result<Option<T>, Problem> {
    let mut given = headers.get_all(name).iter();
    match (given.next(), given.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text = str::from_utf8(value.as_bytes()).map_err(|_| Problem::invalid_header(name, "must be UTF-8"))?;
            T::read(text).map(Some).map_err(|malformed| Problem::invalid_header(name, malformed.why))
        }
        (Some(_), Some(_)) => Err(Problem::invalid_header(name, "must not appear twice")),
    }
}

pub(super) fn remote(parts: &Parts) -> Option<IpAddr> {
    origin(&parts.extensions).map(|origin| origin.address())
}

pub(super) fn refuse(why: Refusal, remote: Option<IpAddr>, challenge: Challenge) -> Problem {
    AuthenticationFailed { why, remote }.emit();
    Problem::unauthorized(challenge)
}

/// Whom a token names, if it is good now and was not sent too often. Why it is not good is for the log alone.
pub(super) async fn identify(
    app: &AppState,
    token: &str,
    remote: Option<IpAddr>,
    challenge: Challenge,
    load: Load,
) -> Result<Caller, Problem> {
    let digest = digest_of_token(token.as_bytes());
    let address = remote.map(|remote| remote.to_string());
    let caller = match known(app, digest).await? {
        Ok(Known::Bootstrap) => bootstrap(address),
        Ok(Known::Minted(shown)) => {
            note(app, &shown, app.clock.now());
            caller(*shown, address)
        }
        // A good token is good however many were not: they are too many to be guessed, and one old token must not lock out all behind one address.
        Err(why) => {
            return Err(match app.throttle.judge(Suspect::api_token(remote), app.clock.now(), || false) {
                Judged::Unheard(wait) => Problem::throttled(wait),
                Judged::Right | Judged::Wrong => refuse(why, remote, challenge),
            });
        }
    };
    traces::vouch();
    app.limiter.credential(&caller.identity, caller.token.rate_per_s, load, app.clock.now())?;
    Ok(caller)
}

/// A token that is good.
enum Known {
    Bootstrap,
    Minted(Box<ShownApiToken>),
}

async fn known(app: &AppState, digest: Digest) -> Result<Result<Known, Refusal>, StoreError> {
    if app.settings.admin_token.is_some_and(|admin| digests_match(&admin, &digest)) {
        return Ok(Ok(Known::Bootstrap));
    }
    let Some(shown) = app.store.api_token(digest).await? else { return Ok(Err(Refusal::Unknown)) };
    Ok(good(&shown, app.clock.now()).map(|()| Known::Minted(Box::new(shown))))
}

/// An eye on a caller who stays long after it was let in: on whether what it showed is still good.
#[derive(Clone, Copy, Debug)]
pub struct Vigil(Digest);

impl Vigil {
    /// On who showed this; none when it showed no API token.
    pub fn over(headers: &HeaderMap) -> Option<Self> {
        match credentials(headers) {
            Ok(Credentials::Bearer(token)) => Some(Self(digest_of_token(token.as_bytes()))),
            Ok(Credentials::None | Credentials::Basic { .. } | Credentials::Other) | Err(_) => None,
        }
    }

    /// Whether it would be let in now.
    pub async fn is_over(self, app: &AppState) -> Result<bool, StoreError> {
        Ok(known(app, self.0).await?.is_err())
    }
}

fn caller(ShownApiToken { record, edition }: ShownApiToken, remote: Option<String>) -> Caller {
    let ApiTokenRecord { id, role, issuer, client_id, may_mass_kill, expires_at, rate_per_s, .. } = record;
    let token = OwnToken { edition, expires_at, rate_per_s };
    Caller { identity: id.to_string(), role, issuer, client_id, may_mass_kill, remote, behalf: Behalf::default(), token }
}

fn bootstrap(remote: Option<String>) -> Caller {
    Caller {
        identity: Caller::BOOTSTRAP.to_owned(),
        role: Role::Admin,
        issuer: None,
        client_id: None,
        may_mass_kill: true,
        remote,
        behalf: Behalf::default(),
        token: OwnToken::NONE,
    }
}

fn good(shown: &ShownApiToken, now: Timestamp) -> Result<(), Refusal> {
    let ShownApiToken { record, edition } = shown;
    match (record.revoked_at, record.expires_at, *edition) {
        (Some(_), _, _) => Err(Refusal::Revoked),
        (None, Some(expiry), _) if expiry <= now => Err(Refusal::Expired),
        (None, _, Edition::Previous) if record.previous_until.is_none_or(|until| until <= now) => Err(Refusal::Replaced),
        (None, _, Edition::Current | Edition::Previous) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::Entropy;
    use Permission as P;

    fn caller(role: Role, issuer: Option<&str>) -> Caller {
        let issuer = issuer.map(|id| IssuerId::parse(id).unwrap());
        Caller {
            identity: "t".into(),
            role,
            issuer,
            client_id: None,
            may_mass_kill: false,
            remote: None,
            behalf: Behalf::default(),
            token: OwnToken::NONE,
        }
    }

    #[test]
    fn each_role_may_what_the_table_says_and_nothing_else() {
        let all = [
            P::Report,
            P::ReadSessions,
            P::Kill,
            P::ReadLogouts,
            P::ReadDeliveries,
            P::Introspect,
            P::RevokeTokens,
            P::Operate,
            P::RetryDeliveries,
            P::TestClients,
            P::ReadRegistry,
            P::Administer,
            P::ManageApiTokens,
            P::ReadApiTokens,
            P::ManageKeys,
            P::ReadAudit,
            P::ReadMetrics,
        ];
        let table: [(Role, &[P]); 6] = [
            (
                Role::Provider,
                &[
                    P::Report,
                    P::ReadSessions,
                    P::Kill,
                    P::ReadLogouts,
                    P::ReadDeliveries,
                    P::Introspect,
                    P::RevokeTokens,
                    P::SubjectSecrets,
                ],
            ),
            (Role::Gateway, &[P::Introspect]),
            (Role::Client, &[P::ReadDeliveries, P::RetryDeliveries, P::TestClients]),
            (
                Role::Operator,
                &[
                    P::ReadSessions,
                    P::Kill,
                    P::RevokeTokens,
                    P::ReadLogouts,
                    P::ReadDeliveries,
                    P::ReadRegistry,
                    P::Operate,
                    P::RetryDeliveries,
                    P::TestClients,
                ],
            ),
            (Role::Auditor, &[P::ReadSessions, P::ReadLogouts, P::ReadDeliveries, P::ReadRegistry, P::ReadAudit, P::ReadMetrics]),
            (Role::Admin, &all),
        ];
        for (role, allowed) in table {
            for permission in all.into_iter().chain([P::SubjectSecrets]) {
                let admitted = admit(&caller(role, Some("main")), permission, "main").is_ok();
                assert_eq!(admitted, allowed.contains(&permission), "{role} {permission:?}");
            }
        }
    }

    #[test]
    fn a_value_that_was_replaced_may_do_all_but_what_outlasts_its_overlap() {
        let before = |role| {
            let caller = caller(role, Some("main"));
            Caller { token: OwnToken { edition: Edition::Previous, ..OwnToken::NONE }, ..caller }
        };
        for permission in [P::ManageApiTokens, P::ManageKeys] {
            let refused = admit(&before(Role::Admin), permission, "main").unwrap_err();
            assert_eq!(refused.detail(), Some("this value of the token was replaced: use the new one"), "{permission:?}");
            let refused = admit(&before(Role::Operator), permission, "main").unwrap_err();
            assert_eq!(refused.detail(), Some("this needs the role admin"), "{permission:?}");
        }
        for permission in [P::Kill, P::Administer, P::ReadApiTokens, P::ReadAudit] {
            assert!(admit(&before(Role::Admin), permission, "main").is_ok(), "{permission:?}");
        }
    }

    #[test]
    fn a_caller_of_one_issuer_learns_nothing_about_another_not_even_that_it_cannot_exist() {
        let bound = caller(Role::Provider, Some("main"));
        for iss in ["other", "no such name", "v1"] {
            let refused = admit(&bound, P::Kill, iss).unwrap_err();
            assert_eq!((refused.code(), refused.detail()), (Code::Forbidden, Some("this token is for the issuer main alone")), "{iss}");
            let refused = admit(&bound, P::Undo, iss).unwrap_err();
            assert_eq!(refused.detail(), Some("this needs one of the roles operator, admin"), "{iss}");
        }
        assert_eq!(admit(&caller(Role::Admin, None), P::Kill, "no such name").unwrap(), None);
    }

    #[test]
    fn who_may_not_is_told_which_roles_may() {
        let detail = |role, permission| admit(&caller(role, Some("main")), permission, "main").unwrap_err().detail().map(str::to_owned);
        assert_eq!(detail(Role::Auditor, P::Kill).as_deref(), Some("this needs one of the roles provider, operator, admin"));
        assert_eq!(detail(Role::Operator, P::Administer).as_deref(), Some("this needs the role admin"));
    }

    #[test]
    fn a_token_stops_at_its_expiry_and_at_its_revocation_and_its_secret_before_when_the_overlap_ends() {
        let at = Timestamp::from_seconds;
        let record = |expires_at, revoked_at| ApiTokenRecord {
            id: Entropy::seeded(1).id(at(0)),
            role: Role::Admin,
            issuer: None,
            client_id: None,
            may_mass_kill: false,
            created_at: at(0),
            expires_at,
            revoked_at,
            rate_per_s: None,
            rotated_at: Some(at(1)),
            previous_until: Some(at(11)),
            used_at: None,
            previous_used_at: None,
        };
        let good = |record, edition, now| good(&ShownApiToken { record, edition }, at(now));
        for edition in [Edition::Current, Edition::Previous] {
            assert_eq!(good(record(None, None), edition, 10), Ok(()));
            assert_eq!(good(record(Some(at(11)), None), edition, 10), Ok(()));
            assert_eq!(good(record(Some(at(10)), None), edition, 10), Err(Refusal::Expired));
            assert_eq!(good(record(None, Some(at(99))), edition, 10), Err(Refusal::Revoked));
        }
        assert_eq!(good(record(None, None), Edition::Current, 11), Ok(()));
        assert_eq!(good(record(None, None), Edition::Previous, 11), Err(Refusal::Replaced));
    }

    fn with(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, axum::http::HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_scheme_is_read_without_regard_to_case_and_never_twice() {
        assert!(credentials(&with(&["bEaReR ldt_x"])).unwrap() == Credentials::Bearer("ldt_x".into()));
        assert!(
            credentials(&with(&["Basic YW55OmxkdF94"])).unwrap() == Credentials::Basic { user: "any".into(), password: "ldt_x".into() }
        );
        assert!(credentials(&with(&[])).unwrap() == Credentials::None);
        for other in ["Digest x", "Bearer", "Basic %%%", "Basic eA=="] {
            assert!(credentials(&with(&[other])).unwrap() == Credentials::Other, "{other}");
        }
        let twice = credentials(&with(&["Bearer a", "Bearer b"]));
        assert_eq!(twice.map(|_| ()).map_err(|p| p.code()), Err(Code::InvalidHeader));
    }
}
