//! One attempt to have a provider revoke a refresh token that was revoked here (RFC 7009 2.1): under whose name, and what follows from the answer.
//!
//! The token is opened for this attempt alone. A login that is newer does not stand in the way: a revoked token is no login's.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::Url;
use zeroize::Zeroizing;

use super::provider::form_encoded;
use super::request::{Claimed, Ended, NO_URI, Sent, Span, UNDONE, could_outlast_its_lease, recorded, unsent};
use super::{Tools, Watch};
use crate::egress::{Answer, Keep, Method, Request};
use crate::issuers::Metadata;
use crate::model::Timestamp;
use crate::model::attempt::{Failure, OutcomeClass};
use crate::model::client::DeliverySettings;
use crate::model::delivery::{DeliveryState, SettledReason, Verdict};
use crate::model::issuer::ProviderEndpoint;
use crate::model::provider_logout::ClientAuth;
use crate::plan::retry::RetrySettings;
use crate::plan::revocation::classify;
use crate::plan::settle::{self, Progress};
use crate::token::Sealed;

/// Attempts a claimed revocation.
pub(super) async fn attempt(tools: &Tools, claimed: Arc<Claimed>, watch: &Watch) -> Ended {
    let now = watch.now();
    let order = match order(&claimed, now) {
        Ok(order) => order,
        Err(verdict) => return Ended::Settled(Box::new(unsent(&claimed.leased, verdict))),
    };
    let timeout = DeliverySettings::DEFAULT.timeout.min(tools.settings.timeout_max);
    if tools.tasks.stop().is_requested() || could_outlast_its_lease(&claimed.leased, timeout, now) {
        return Ended::Unbegun;
    }
    let began = tools.clock.instant();
    let said = revoke(tools, &order, timeout, now).await;
    let span = Span { started_at: now, began, ended_at: watch.now() };
    let (class, confirm_rejections) = said.meaning;
    let settings = RetrySettings { confirm_rejections, retry_statuses: &[] };
    let progress = Progress::of(&claimed.leased);
    let next = settle::settle_as(&progress, class, &said.sent.outcome, settings, span.ended_at, tools.entropy.unit());
    Ended::Settled(Box::new(recorded(tools, &claimed.leased, next, said.sent, &span)))
}

/// What is to be revoked, and where.
struct Order<'a> {
    claimed: &'a Claimed,
    endpoint: &'a ProviderEndpoint,
    /// What it is registered by, and its octets, sealed.
    token: &'a (String, String),
}

const TOKEN_GONE: Verdict = Verdict::Settled { state: DeliveryState::Cancelled, reason: SettledReason::TokenGone };

/// Decides what is revoked, or how the delivery settles without it.
fn order(claimed: &Claimed, now: Timestamp) -> Result<Order<'_>, Verdict> {
    let Claimed { leased, facts } = claimed;
    if let Some(expired) = settle::expired_before_send(leased.horizon_at, now) {
        return Err(expired);
    }
    if facts.undone {
        return Err(UNDONE);
    }
    let endpoint = facts.issuer.revocation.as_ref().ok_or(NO_URI)?;
    let token = facts.revocation.as_ref().and_then(|known| known.token.as_ref()).ok_or(TOKEN_GONE)?;
    Ok(Order { claimed, endpoint, token })
}

/// What came of it, and what that means.
struct Said {
    sent: Sent,
    meaning: (OutcomeClass, u8),
}

impl Said {
    fn of(answer: Answer) -> Self {
        let Answer { outcome, remote_addr, excerpt, .. } = answer;
        let meaning = classify(&outcome, excerpt.as_deref());
        let remote_addr = remote_addr.map(|address| address.to_string());
        Self { sent: Sent { outcome, jti: None, kid: None, remote_addr, excerpt }, meaning }
    }

    /// Nothing was sent, and somebody has to change a setting.
    fn missing(what: &str) -> Self {
        Self { sent: Sent { excerpt: Some(what.to_owned()), ..Sent::not(Failure::Ours) }, meaning: (OutcomeClass::ConfigFault, 0) }
    }

    fn ours() -> Self {
        Self { sent: Sent::not(Failure::Ours), meaning: (OutcomeClass::Ours, 0) }
    }
}

/// As whom the provider is asked: a client's name, and its secret if it has one.
struct Caller {
    client_id: String,
    secret: Option<Zeroizing<String>>,
}

async fn revoke(tools: &Tools, order: &Order<'_>, timeout: Duration, now: Timestamp) -> Said {
    let Some(url) = endpoint_url(order) else { return Said::missing("it is not known where the provider revokes tokens") };
    let (name, sealed) = order.token;
    let issuer = &order.claimed.facts.issuer;
    let (Some(token), Some(caller)) = (opened(tools, order, &Sealed::refresh_token(&issuer.id, name), sealed), caller(tools, order)) else {
        return Said::ours();
    };
    send(tools, order, (&url, &caller, &token), timeout, now).await
}

/// As it is registered, or else where the provider's metadata say (RFC 8414 2).
fn endpoint_url(order: &Order<'_>) -> Option<Url> {
    let discovered = || Metadata::of(order.claimed.facts.revocation.as_ref()?.document.as_ref()?)?.revocation_endpoint;
    order.endpoint.url.clone().or_else(discovered)
}

/// As the issuer's registration says, or else as the client whose token it is.
fn caller(tools: &Tools, order: &Order<'_>) -> Option<Caller> {
    let Claimed { leased, facts } = order.claimed;
    let (client_id, secret) = match (&order.endpoint.client_id, &order.endpoint.sealed) {
        (Some(client_id), None) => (client_id, None),
        (Some(client_id), Some(sealed)) => (client_id, Some(opened(tools, order, &Sealed::revocation(&facts.issuer.id), sealed)?)),
        (None, _) => {
            let place = Sealed::provider_secret(&facts.issuer.id, &leased.client_id);
            match facts.client.as_ref().and_then(|client| client.tokens.provider_secret.as_ref()) {
                None => (&leased.client_id, None),
                Some(sealed) => (&leased.client_id, Some(opened(tools, order, &place, sealed)?)),
            }
        }
    };
    Some(Caller { client_id: client_id.to_string(), secret })
}

fn opened(tools: &Tools, order: &Order<'_>, place: &Sealed<'_>, sealed: &str) -> Option<Zeroizing<String>> {
    let octets = tools.sealing.open_text(place, sealed).ok();
    let text = octets.and_then(|octets| std::str::from_utf8(&octets).ok().map(|text| Zeroizing::new(text.to_owned())));
    if text.is_none() {
        tracing::error!(delivery = %order.claimed.leased.id, purpose = place.purpose, "what a token is revoked with could not be unsealed");
    }
    text
}

async fn send(
    tools: &Tools,
    order: &Order<'_>,
    (url, caller, token): (&Url, &Caller, &Zeroizing<String>),
    timeout: Duration,
    now: Timestamp,
) -> Said {
    let leased = &order.claimed.leased;
    let number = Progress::of(leased).next_number().to_string();
    let (body, basic) = caller.written(token, order.endpoint.method);
    let authorization = basic.as_ref().map(|basic| Zeroizing::new(format!("Basic {}", basic.as_str())));
    let mut headers = vec![("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")];
    headers.extend(authorization.as_ref().map(|value| ("authorization", value.as_str())));
    headers.extend([("logoutd-delivery", leased.id.as_str()), ("logoutd-attempt", number.as_str())]);
    let encoded: Vec<Zeroizing<String>> = std::iter::once(token).chain(&caller.secret).map(|secret| form_encoded(secret)).collect();
    let plain = std::iter::once(token).chain(&caller.secret).chain(&encoded).chain(&basic);
    let secrets: Vec<&str> = plain.map(|secret| secret.as_str()).collect();
    let request = Request {
        method: Method::Post,
        url,
        network: &order.claimed.facts.issuer.network,
        headers: &headers,
        body: body.as_bytes(),
        secrets: &secrets,
        keep: Keep::Excerpt,
        timeout,
        now,
    };
    let answer = tools.egress.send(request).await;
    if let Some(detail) = &answer.detail {
        tracing::info!(delivery = %leased.id, issuer = %leased.issuer, detail, "the provider gave no answer");
    }
    Said::of(answer)
}

impl Caller {
    /// The form (RFC 7009 2.1), and the value of the header where the secret is shown there (RFC 6749 2.3.1: both parts form-encoded before they are
    /// joined). Who has no secret says its name alone (RFC 6749 2.1: a public client).
    fn written(&self, token: &str, method: ClientAuth) -> (Zeroizing<String>, Option<Zeroizing<String>>) {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("token", token).append_pair("token_type_hint", "refresh_token");
        let basic = match (&self.secret, method) {
            (None, _) => {
                form.append_pair("client_id", &self.client_id);
                None
            }
            (Some(secret), ClientAuth::Post) => {
                form.append_pair("client_id", &self.client_id).append_pair("client_secret", secret);
                None
            }
            (Some(secret), ClientAuth::Basic) => {
                let pair = Zeroizing::new(format!("{}:{}", form_encoded(&self.client_id).as_str(), form_encoded(secret).as_str()));
                Some(Zeroizing::new(STANDARD.encode(pair.as_bytes())))
            }
        };
        (Zeroizing::new(form.finish()), basic)
    }
}
