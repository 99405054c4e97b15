//! One attempt to tell a provider: what is said of the session, under whose name, and what follows from the answer.
//!
//! A client's token is asked for when it is needed and kept in memory until shortly before its end, or until the provider no longer takes it. A token
//! endpoint that is away is the provider that is away; one that refuses us is a setting somebody has to change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::request::{Claimed, Ended, NO_URI, Sent, Span, UNDONE, could_outlast_its_lease, recorded, unsent};
use super::{Tools, Watch};
use crate::egress::{Answer, Keep, Method as Verb, Request};
use crate::model::attempt::{Failure, Outcome, OutcomeClass};
use crate::model::delivery::{DeliveryState, SettledReason, Verdict};
use crate::model::issuer::IssuerRecord;
use crate::model::key::SigningAlg;
use crate::model::provider_logout::{Auth, ClientAuth, Method, ProviderLogout, SessionNames};
use crate::model::{IssuerId, Timestamp};
use crate::plan::provider::{self, Call, Go, Late, Saying};
use crate::plan::retry::RetrySettings;
use crate::plan::settle::{self, Progress};
use crate::store::ProviderFacts;
use crate::token::{Sealed, SessionRevoked, SigningKey, TokenError};

/// Attempts a claimed word to the provider.
pub(super) async fn attempt(tools: &Tools, claimed: Arc<Claimed>, watch: &Watch) -> Ended {
    let now = watch.now();
    let notice = match notice(&claimed, now) {
        Ok(notice) => notice,
        Err(verdict) => return Ended::Settled(Box::new(unsent(&claimed.leased, verdict))),
    };
    let timeout = notice.logout.timeout.min(tools.settings.timeout_max);
    if tools.tasks.stop().is_requested() || could_outlast_its_lease(&claimed.leased, timeout, now) {
        return Ended::Unbegun;
    }
    let began = tools.clock.instant();
    let told = tell(tools, &notice, &Budget { watch, until: now.plus(timeout) }).await;
    let span = Span { started_at: now, began, ended_at: watch.now() };
    let (class, confirm_rejections) = told.meaning(notice.logout);
    let settings = RetrySettings { confirm_rejections, retry_statuses: &notice.logout.retry_statuses };
    let progress = Progress::of(&claimed.leased);
    let next = settle::settle_as(&progress, class, &told.sent.outcome, settings, span.ended_at, tools.entropy.unit());
    Ended::Settled(Box::new(recorded(tools, &claimed.leased, next, told.sent, &span)))
}

/// What is to be said, and of whom.
struct Notice<'a> {
    claimed: &'a Claimed,
    facts: &'a ProviderFacts,
    logout: &'a ProviderLogout,
    names: SessionNames<'a>,
    saying: Saying<'a>,
}

/// Decides what is said, or how the delivery settles without it.
fn notice(claimed: &Claimed, now: Timestamp) -> Result<Notice<'_>, Verdict> {
    let Claimed { leased, facts } = claimed;
    if let Some(expired) = settle::expired_before_send(leased.horizon_at, now) {
        return Err(expired);
    }
    if facts.undone {
        return Err(UNDONE);
    }
    let logout = facts.issuer.provider_logout.as_deref().ok_or(NO_URI)?;
    let known = facts.provider.as_ref().ok_or(NO_URI)?;
    let names = SessionNames { issuer: &facts.issuer.issuer, sub: leased.sub.as_ref(), sid: leased.sid.as_ref(), key: known.key.as_ref() };
    let late = Late { leased, reaches: logout.reaches(&names), same: known.same, any: known.any };
    match provider::before_attempt(&late) {
        Go::Out => {}
        Go::Superseded => return Err(Verdict::Settled { state: DeliveryState::Superseded, reason: SettledReason::NewerLogin }),
    }
    let unreachable = |why| Verdict::Settled { state: DeliveryState::Unreachable, reason: provider::reason(why) };
    let saying = provider::saying(logout, &names).map_err(unreachable)?;
    Ok(Notice { claimed, facts: known, logout, names, saying })
}

/// How long an attempt may take, a token for it included.
struct Budget<'a> {
    watch: &'a Watch,
    until: Timestamp,
}

impl Budget<'_> {
    fn left(&self) -> Duration {
        self.until.since(self.watch.now())
    }
}

/// What came of it, and which answer it was.
struct Told {
    sent: Sent,
    body: Option<String>,
    stage: Stage,
}

/// Who answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The provider, to what it was told.
    Notice,
    /// Its token endpoint.
    Token,
    /// Nobody: the secret we were to show is not registered.
    NoSecret,
}

impl Told {
    fn of(answer: Answer, stage: Stage) -> Self {
        let Answer { outcome, remote_addr, excerpt, .. } = answer;
        let body = excerpt.clone();
        let excerpt = match stage {
            Stage::Token => Some(format!("token endpoint: {}", excerpt.as_deref().unwrap_or("no reason given"))),
            Stage::Notice | Stage::NoSecret => excerpt,
        };
        Self {
            sent: Sent { outcome, jti: None, kid: None, remote_addr: remote_addr.map(|address| address.to_string()), excerpt },
            body,
            stage,
        }
    }

    fn failed(failure: Failure, stage: Stage, excerpt: Option<&str>) -> Self {
        Self { sent: Sent { excerpt: excerpt.map(str::to_owned), ..Sent::not(failure) }, body: None, stage }
    }

    fn meaning(&self, logout: &ProviderLogout) -> (OutcomeClass, u8) {
        match (self.stage, &self.sent.outcome) {
            (Stage::Notice, outcome) => provider::classify(logout, outcome, self.body.as_deref()),
            (Stage::NoSecret, _) => (OutcomeClass::ConfigFault, 0),
            // RFC 6749 5.2: whatever a 4xx says, it is about us and not about the session. What says nothing we can read is not a token endpoint.
            (Stage::Token, Outcome::Answered { status: 408 | 425 | 429 | 500.., .. } | Outcome::Failed(_)) => {
                (crate::plan::outcome::classify(&self.sent.outcome, &[]), 0)
            }
            (Stage::Token, Outcome::Answered { .. }) => (OutcomeClass::ConfigFault, 0),
        }
    }
}

async fn tell(tools: &Tools, notice: &Notice<'_>, budget: &Budget<'_>) -> Told {
    let (call, event) = match prepared(tools, notice, budget).await {
        Ok(prepared) => prepared,
        Err(failure) => return Told::failed(failure, Stage::Notice, None),
    };
    let who = match credentials(tools, notice, budget, None).await {
        Ok(who) => who,
        Err(told) => return *told,
    };
    let told = send(tools, notice, budget, &call, event.as_ref(), &who).await;
    let refused = matches!(told.sent.outcome, Outcome::Answered { status: 401, .. });
    match who {
        // RFC 6750 3.1: a token that was kept may have been taken back. One that was just given is not asked for again.
        Who::Token { token, kept: true } if refused => match credentials(tools, notice, budget, Some(&token)).await {
            Ok(who) => send(tools, notice, budget, &call, event.as_ref(), &who).await,
            Err(told) => *told,
        },
        Who::Token { .. } | Who::Nobody | Who::Bearer(_) | Who::Basic(_) => told,
    }
}

/// A signed event's names.
struct Event {
    kid: String,
}

/// The request, and the event in it if there is one.
async fn prepared(tools: &Tools, notice: &Notice<'_>, budget: &Budget<'_>) -> Result<(Call, Option<Event>), Failure> {
    let (url, audience) = match &notice.saying {
        Saying::Call(call) => return Ok((Call::clone(call), None)),
        Saying::Event(url, audience) => (*url, *audience),
    };
    match sign(tools, notice, audience, budget.watch.now()).await {
        Ok((token, kid)) => {
            // RFC 8935 2.1
            let body = Some(("application/secevent+jwt", token));
            let headers = vec![("accept".to_owned(), "application/json".to_owned()), ("accept-language".to_owned(), "en".to_owned())];
            Ok((Call { method: Method::Post, url: url.clone(), headers, body }, Some(Event { kid })))
        }
        Err(why) => {
            tracing::error!(delivery = %notice.claimed.leased.id, why, "no security event could be signed");
            Err(Failure::Ours)
        }
    }
}

/// Algorithms that give the same octets each time, which is what a repeated event shall be; another only where there is none of them.
const STEADY: [SigningAlg; 4] = [SigningAlg::Rs256, SigningAlg::EdDsa, SigningAlg::Rs384, SigningAlg::Rs512];

fn alg_of(issuer: &IssuerRecord) -> Option<SigningAlg> {
    let steady = STEADY.into_iter().find(|alg| issuer.signing_algs.contains(alg));
    steady.or_else(|| issuer.signing_algs.first().copied())
}

/// The event and the name of the key it was signed with.
async fn sign(tools: &Tools, notice: &Notice<'_>, audience: &str, now: Timestamp) -> Result<(String, String), String> {
    let issuer = &notice.claimed.facts.issuer;
    let alg = alg_of(issuer).ok_or("the issuer has no key")?;
    let key = tools.signer.key(issuer, alg, now).await.map_err(|error| error.to_string())?;
    let kid = key.kid().to_owned();
    let (leased, issuer, reason) = (notice.claimed.leased.clone(), issuer.issuer.clone(), notice.facts.reason);
    let (audience, session_key) = (audience.to_owned(), notice.names.key.cloned());
    let draft = move |key: &SigningKey| -> Result<String, TokenError> {
        let event = SessionRevoked {
            issuer: &issuer,
            audience: &audience,
            delivery: &leased.id,
            event: &leased.event,
            created_at: leased.created_at,
            occurred_at: leased.occurred_at,
            sub: leased.sub.as_ref(),
            sid: leased.sid.as_ref(),
            key: session_key.as_ref(),
            initiator: provider::initiator(reason),
            explanation: provider::explanation(reason),
        };
        event.sign(key)
    };
    let token = tools.signer.sign(key, draft).await.map_err(|error| error.to_string())?;
    Ok((token, kid))
}

async fn send(tools: &Tools, notice: &Notice<'_>, budget: &Budget<'_>, call: &Call, event: Option<&Event>, who: &Who) -> Told {
    let leased = &notice.claimed.leased;
    let number = Progress::of(leased).next_number().to_string();
    let authorization = who.authorization();
    let mut headers: Vec<(&str, &str)> = call.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    if !headers.iter().any(|(name, _)| *name == "accept") {
        headers.push(("accept", "application/json"));
    }
    headers.extend(call.body.as_ref().map(|(kind, _)| ("content-type", *kind)));
    headers.extend(authorization.as_ref().map(|value| ("authorization", value.as_str())));
    headers.extend([("logoutd-delivery", leased.id.as_str()), ("logoutd-attempt", number.as_str())]);
    let body = call.body.as_ref().map_or("", |(_, body)| body.as_str());
    let mut secrets = who.secrets();
    secrets.extend(event.map(|_| body));
    let request = Request {
        method: verb(call.method),
        url: &call.url,
        network: &notice.claimed.facts.issuer.network,
        headers: &headers,
        body: body.as_bytes(),
        secrets: &secrets,
        keep: Keep::Excerpt,
        timeout: budget.left(),
        now: budget.watch.now(),
    };
    let answer = tools.egress.send(request).await;
    if let Some(detail) = &answer.detail {
        tracing::info!(delivery = %leased.id, issuer = %leased.issuer, detail, "the provider gave no answer");
    }
    let mut told = Told::of(answer, Stage::Notice);
    (told.sent.jti, told.sent.kid) = event.map(|event| (leased.id.to_string(), event.kid.clone())).unzip();
    told
}

const fn verb(method: Method) -> Verb {
    match method {
        Method::Post => Verb::Post,
        Method::Put => Verb::Put,
        Method::Delete => Verb::Delete,
        Method::Patch => Verb::Patch,
        Method::Get => Verb::Get,
    }
}

/// Who asks, with what proves it.
enum Who {
    Nobody,
    Bearer(Zeroizing<String>),
    /// The password, and how it and its user are written (RFC 7617 2).
    Basic([Zeroizing<String>; 2]),
    Token {
        token: Arc<Zeroizing<String>>,
        /// It was not asked for just now.
        kept: bool,
    },
}

impl Who {
    fn authorization(&self) -> Option<Zeroizing<String>> {
        match self {
            Self::Nobody => None,
            Self::Bearer(token) => Some(Zeroizing::new(format!("Bearer {}", token.as_str()))),
            Self::Basic([_, written]) => Some(Zeroizing::new(format!("Basic {}", written.as_str()))),
            Self::Token { token, .. } => Some(Zeroizing::new(format!("Bearer {}", token.as_str()))),
        }
    }

    fn secrets(&self) -> Vec<&str> {
        match self {
            Self::Nobody => Vec::new(),
            Self::Bearer(token) => vec![token.as_str()],
            Self::Basic(both) => both.iter().map(|secret| secret.as_str()).collect(),
            Self::Token { token, .. } => vec![token.as_str()],
        }
    }
}

/// Who asks; `stale` is a token that is no longer taken.
async fn credentials(
    tools: &Tools,
    notice: &Notice<'_>,
    budget: &Budget<'_>,
    stale: Option<&Arc<Zeroizing<String>>>,
) -> Result<Who, Box<Told>> {
    let issuer = &notice.claimed.facts.issuer;
    if matches!(notice.logout.auth, Auth::None) {
        return Ok(Who::Nobody);
    }
    let secret = opened(tools, issuer, notice.logout)?;
    match &notice.logout.auth {
        Auth::None => Ok(Who::Nobody),
        Auth::Bearer => Ok(Who::Bearer(secret)),
        Auth::Basic { username } => {
            let written = STANDARD.encode(Zeroizing::new(format!("{username}:{}", secret.as_str())).as_bytes());
            Ok(Who::Basic([secret, Zeroizing::new(written)]))
        }
        Auth::ClientCredentials { token_url, client_id, scope, method } => {
            let grant = Grant { token_url, client_id, scope: scope.as_deref(), method: *method, secret: &secret };
            tools.tokens.of(tools, issuer, &grant, budget, stale).await
        }
    }
}

fn opened(tools: &Tools, issuer: &IssuerRecord, logout: &ProviderLogout) -> Result<Zeroizing<String>, Box<Told>> {
    let Some(sealed) = &logout.sealed else {
        return Err(Box::new(Told::failed(Failure::Ours, Stage::NoSecret, Some("the secret to show to the provider is not registered"))));
    };
    let opened = tools.sealing.open_text(&Sealed::provider_logout(&issuer.id), sealed);
    let text = opened.ok().and_then(|secret| std::str::from_utf8(&secret).ok().map(|text| Zeroizing::new(text.to_owned())));
    text.ok_or_else(|| {
        tracing::error!(issuer = %issuer.id, "the secret to show to the provider could not be unsealed");
        Box::new(Told::failed(Failure::Ours, Stage::Notice, None))
    })
}

/// How a token is asked for (RFC 6749 4.4).
struct Grant<'a> {
    token_url: &'a url::Url,
    client_id: &'a str,
    scope: Option<&'a str>,
    method: ClientAuth,
    secret: &'a Zeroizing<String>,
}

/// Tokens in hand, one for each issuer.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<IssuerId, Desk>>);

/// One issuer's: whoever needs a token waits for the one who asks.
#[derive(Clone)]
struct Desk {
    asking: Arc<Semaphore>,
    held: Option<Held>,
}

#[derive(Clone)]
struct Held {
    token: Arc<Zeroizing<String>>,
    /// Under which state of the registration it was given.
    registered: (Timestamp, i64),
    until: Timestamp,
}

impl Default for Desk {
    fn default() -> Self {
        Self { asking: Arc::new(Semaphore::new(1)), held: None }
    }
}

/// A token that may be larger than this is none.
const TOKEN_OCTETS_MAX: usize = 16 * 1024;
/// A token is given up so long before its end, or at half of its life.
const MARGIN: Duration = Duration::from_secs(30);
/// How long a token is good that does not say so, and how long it is kept at most.
const UNSAID: Duration = Duration::from_secs(60);
const KEPT_MAX: Duration = Duration::from_hours(1);

impl Tokens {
    async fn of(
        &self,
        tools: &Tools,
        issuer: &IssuerRecord,
        grant: &Grant<'_>,
        budget: &Budget<'_>,
        stale: Option<&Arc<Zeroizing<String>>>,
    ) -> Result<Who, Box<Told>> {
        if let Some(token) = self.at_hand(issuer, budget.watch.now(), stale) {
            return Ok(Who::Token { token, kept: stale.is_none() });
        }
        let asking = self.asking(&issuer.id);
        let turn = tokio::time::timeout(budget.left(), asking.acquire_owned()).await;
        let _turn = turn.map_err(|_| Box::new(Told::failed(Failure::Timeout, Stage::Token, None)))?.expect("it is never closed");
        // Somebody else may have asked meanwhile.
        if let Some(token) = self.at_hand(issuer, budget.watch.now(), stale) {
            return Ok(Who::Token { token, kept: stale.is_none() });
        }
        let (token, until) = ask(tools, issuer, grant, budget).await?;
        let held = Held { token: Arc::clone(&token), registered: (issuer.created_at, issuer.version), until };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(issuer.id.clone()).or_default().held = Some(held);
        Ok(Who::Token { token, kept: false })
    }

    fn asking(&self, issuer: &IssuerId) -> Arc<Semaphore> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(issuer.clone()).or_default().asking)
    }

    fn at_hand(&self, issuer: &IssuerRecord, now: Timestamp, stale: Option<&Arc<Zeroizing<String>>>) -> Option<Arc<Zeroizing<String>>> {
        let desks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = desks.get(&issuer.id)?.held.as_ref()?;
        let good = held.registered == (issuer.created_at, issuer.version) && now < held.until;
        (good && stale.is_none_or(|stale| !Arc::ptr_eq(stale, &held.token))).then(|| Arc::clone(&held.token))
    }
}

/// Asks for a token, and says until when it is kept.
async fn ask(
    tools: &Tools,
    issuer: &IssuerRecord,
    grant: &Grant<'_>,
    budget: &Budget<'_>,
) -> Result<(Arc<Zeroizing<String>>, Timestamp), Box<Told>> {
    let (body, basic) = grant.written();
    let authorization = basic.as_ref().map(|basic| Zeroizing::new(format!("Basic {}", basic.as_str())));
    let mut headers = vec![("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")];
    headers.extend(authorization.as_ref().map(|value| ("authorization", value.as_str())));
    let encoded = form_encoded(grant.secret);
    let mut secrets = vec![grant.secret.as_str(), encoded.as_str()];
    secrets.extend(basic.as_ref().map(|basic| basic.as_str()));
    let request = Request {
        method: Verb::Post,
        url: grant.token_url,
        network: &issuer.network,
        headers: &headers,
        body: body.as_bytes(),
        secrets: &secrets,
        keep: Keep::Whole { octets_max: TOKEN_OCTETS_MAX },
        timeout: budget.left(),
        now: budget.watch.now(),
    };
    let answer = tools.egress.send(request).await;
    if let Some(detail) = &answer.detail {
        tracing::info!(issuer = %issuer.id, detail, "the token endpoint gave no answer");
    }
    let given = answer.body.as_deref().and_then(|body| serde_json::from_slice::<Given>(body).ok());
    match (&answer.outcome, given) {
        (Outcome::Answered { status: 200..300, .. }, Some(given)) if given.is_bearer() => {
            let token = Arc::new(Zeroizing::new(given.access_token));
            Ok((token, budget.watch.now().plus(kept_for(given.expires_in))))
        }
        (Outcome::Answered { status: 200..300, .. }, _) => {
            Err(Box::new(Told::failed(Failure::Garbled, Stage::Token, Some("token endpoint: its answer holds no bearer token"))))
        }
        (Outcome::Answered { .. } | Outcome::Failed(_), _) => Err(Box::new(Told::of(answer, Stage::Token))),
    }
}

/// RFC 6749 5.1
#[derive(Deserialize)]
struct Given {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<u64>,
}

impl Given {
    fn is_bearer(&self) -> bool {
        let legal = !self.access_token.is_empty() && self.access_token.bytes().all(|octet| (0x21..0x7f).contains(&octet));
        legal && self.token_type.as_deref().is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"))
    }
}

fn kept_for(expires_in: Option<u64>) -> Duration {
    let life = expires_in.map_or(UNSAID, Duration::from_secs);
    life.saturating_sub(MARGIN).max(life / 2).min(KEPT_MAX)
}

impl Grant<'_> {
    /// The form, and the value of the header where the secret is shown there (RFC 6749 2.3.1: both parts form-encoded before they are joined).
    fn written(&self) -> (Zeroizing<String>, Option<Zeroizing<String>>) {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if let Some(scope) = self.scope {
            form.append_pair("scope", scope);
        }
        let basic = match self.method {
            ClientAuth::Post => {
                form.append_pair("client_id", self.client_id).append_pair("client_secret", self.secret);
                None
            }
            ClientAuth::Basic => {
                let pair = Zeroizing::new(format!("{}:{}", form_encoded(self.client_id).as_str(), form_encoded(self.secret).as_str()));
                Some(Zeroizing::new(STANDARD.encode(pair.as_bytes())))
            }
        };
        (Zeroizing::new(form.finish()), basic)
    }
}

pub(super) fn form_encoded(text: &str) -> Zeroizing<String> {
    Zeroizing::new(url::form_urlencoded::byte_serialize(text.as_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_given_up_before_its_end_and_never_kept_longer_than_an_hour() {
        let kept = |seconds: Option<u64>| kept_for(seconds).as_secs();
        assert_eq!(
            [kept(Some(300)), kept(Some(60)), kept(Some(20)), kept(None), kept(Some(0)), kept(Some(u64::MAX))],
            [270, 30, 10, 30, 0, 3600]
        );
    }

    #[test]
    fn a_secret_is_form_encoded_before_it_is_joined_to_its_client() {
        let (url, secret) = ("https://id.example/token".parse().unwrap(), Zeroizing::new("a:b c".to_owned()));
        let grant = |method| Grant { token_url: &url, client_id: "cli:ent", scope: Some("x y"), method, secret: &secret };
        let (form, basic) = grant(ClientAuth::Basic).written();
        assert_eq!(form.as_str(), "grant_type=client_credentials&scope=x+y");
        assert_eq!(STANDARD.decode(basic.unwrap().as_bytes()).unwrap(), b"cli%3Aent:a%3Ab+c");
        let (form, basic) = grant(ClientAuth::Post).written();
        assert!(basic.is_none() && form.ends_with("&client_id=cli%3Aent&client_secret=a%3Ab+c"), "{}", form.as_str());
    }
}
