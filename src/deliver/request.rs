//! One attempt: what may be said to whom, signed afresh, sent, and what follows from the answer.
//!
//! Everything about the client is read for this attempt alone, so that a changed URI, key or setting counts from the next attempt on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::provider;
use super::revocation;
use super::signer::SignerError;
use super::{Tools, Watch};
use crate::egress::{Answer, Post};
use crate::model::attempt::{AttemptRecord, Failure, Outcome, SentToken};
use crate::model::client::{Claims, ClientRecord, DeliverySettings, TokenTyp};
use crate::model::delivery::{DeliveryKind, DeliveryState, Leased, SettledReason, Verdict};
use crate::model::{AttemptId, Sid, Subject, Timestamp};
use crate::plan::address;
use crate::plan::late::{self, LateFacts, Names, Newer, Sending, SidNeed};
use crate::plan::relay;
use crate::plan::retry::RetrySettings;
use crate::plan::settle::{self, Progress};
use crate::plan::time::gravity_of;
use crate::store::{AttemptFacts, RelayedFacts, Settlement};
use crate::token::{LogoutToken, Named, Nameless, Sealed, SigningKey, TokenError, jwt_id};

/// A claimed delivery and what is known beside it.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) leased: Leased,
    pub(super) facts: AttemptFacts,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Something is to be recorded.
    Settled(Box<Settlement>),
    /// Nothing was begun, and the lease is given back.
    Unbegun,
}

/// Attempts a claimed delivery.
pub(super) async fn attempt(tools: &Tools, claimed: Arc<Claimed>, watch: &Watch) -> Ended {
    match claimed.leased.kind {
        DeliveryKind::Provider => provider::attempt(tools, claimed, watch).await,
        DeliveryKind::Revocation => revocation::attempt(tools, claimed, watch).await,
        DeliveryKind::LogoutToken | DeliveryKind::Relay => attempt_client(tools, claimed, watch).await,
    }
}

async fn attempt_client(tools: &Tools, claimed: Arc<Claimed>, watch: &Watch) -> Ended {
    let now = watch.now();
    let theirs = unsealed(tools, &claimed);
    let to = match addressee(&claimed, theirs.as_ref(), tools.settings.timeout_max, now) {
        Ok(to) => to,
        Err(verdict) => return Ended::Settled(Box::new(unsent(&claimed.leased, verdict))),
    };
    if tools.tasks.stop().is_requested() || could_outlast_its_lease(&claimed.leased, to.timeout, now) {
        return Ended::Unbegun;
    }
    let began = tools.clock.instant();
    let sent = send(tools, &claimed, &to, now).await;
    let span = Span { started_at: now, began, ended_at: watch.now() };
    Ended::Settled(Box::new(settled(tools, &claimed.leased, RetrySettings::of(&to.client.delivery), sent, &span)))
}

/// The settlement of an attempt that died: our fault, whatever it was about.
pub(super) fn died(tools: &Tools, leased: &Leased, now: Timestamp) -> Settlement {
    let span = Span { started_at: now, began: tools.clock.instant(), ended_at: now };
    settled(tools, leased, RetrySettings::of(&DeliverySettings::DEFAULT), Sent::not(Failure::Ours), &span)
}

/// A provider's token that may be passed on.
struct Theirs {
    text: Zeroizing<String>,
    fresh_until: Timestamp,
}

/// The token a relay was taken in with, if it is kept. One that does not open is as one that is no longer kept: ours takes its place.
fn unsealed(tools: &Tools, claimed: &Claimed) -> Option<Theirs> {
    let kept = claimed.facts.relayed.as_ref()?.theirs.as_ref()?;
    let place = Sealed::relayed_token(&claimed.leased.issuer, &claimed.leased.client_id);
    match tools.sealing.open(&place, &kept.octets) {
        Ok(octets) => {
            let text = Zeroizing::new(std::str::from_utf8(&octets).ok()?.to_owned());
            Some(Theirs { text, fresh_until: kept.fresh_until })
        }
        Err(error) => {
            tracing::error!(delivery = %claimed.leased.id, error = &error as &dyn std::error::Error, "a relayed token cannot be opened");
            None
        }
    }
}

/// Whom to tell, and with what.
struct Addressee<'a> {
    client: &'a ClientRecord,
    uri: &'a url::Url,
    message: Message<'a>,
    /// Registered, but never longer than today's limit: a lease must outlast it.
    timeout: Duration,
}

/// What is sent.
enum Message<'a> {
    /// A token of ours, by these names.
    Ours(Names<'a>),
    /// The provider's, unchanged.
    Theirs(&'a str),
}

pub(super) const UNDONE: Verdict = Verdict::Settled { state: DeliveryState::Cancelled, reason: SettledReason::Undone };
pub(super) const NO_URI: Verdict = Verdict::Settled { state: DeliveryState::Cancelled, reason: SettledReason::NoUri };

/// Decides whom to tell what, or how the delivery settles without being sent.
fn addressee<'a>(
    claimed: &'a Claimed,
    theirs: Option<&'a Theirs>,
    timeout_max: Duration,
    now: Timestamp,
) -> Result<Addressee<'a>, Verdict> {
    let Claimed { leased, facts } = claimed;
    if let Some(expired) = settle::expired_before_send(leased.horizon_at, now) {
        return Err(expired);
    }
    if facts.undone {
        return Err(UNDONE);
    }
    let client = facts.client.as_ref().ok_or(NO_URI)?;
    let uri = client.backchannel_logout_uri.as_ref().ok_or(NO_URI)?;
    let need = SidNeed::of(client);
    let claims = match leased.kind {
        DeliveryKind::Relay => relay::claims(client.delivery.claims, leased.sid.as_ref()),
        DeliveryKind::LogoutToken | DeliveryKind::Provider | DeliveryKind::Revocation => client.delivery.claims,
    };
    let late = LateFacts::of(leased, late::claims_of(claims, need), newer(leased, facts), now);
    let sending = late::before_attempt(&late);
    let timeout = client.delivery.timeout.min(timeout_max);
    if let Some(relayed) = &facts.relayed
        && let Some(text) = passed_on(claimed, relayed, theirs, sending, now).map_err(late::Unsent::verdict)?
    {
        return Ok(Addressee { client, uri, message: Message::Theirs(text), timeout });
    }
    let known = Names { sub: leased.sub.as_ref(), sid: leased.sid.as_ref() };
    let names = late::names(claims, need, known, sending).map_err(late::Unsent::verdict)?;
    Ok(Addressee { client, uri, message: Message::Ours(names), timeout })
}

/// The provider's token where it may be passed on; none where one of ours is to be sent, if that can be checked.
fn passed_on<'a>(
    claimed: &Claimed,
    relayed: &RelayedFacts,
    theirs: Option<&'a Theirs>,
    sending: Sending,
    now: Timestamp,
) -> Result<Option<&'a str>, late::Unsent> {
    let Claimed { leased, facts } = claimed;
    let choice = relay::token(&relay::TokenFacts {
        fresh_until: theirs.map(|theirs| theirs.fresh_until),
        sub: leased.sub.as_ref(),
        sending,
        prior: leased.prior,
        past: &relayed.past,
        now,
    })?;
    match (choice, theirs) {
        (SentToken::Theirs, Some(theirs)) => Ok(Some(&theirs.text)),
        (SentToken::Theirs, None) | (SentToken::Ours, _) => {
            relay::can_be_checked(facts.issuer.source.published_at, relayed.key_seen_at, now)?;
            Ok(None)
        }
    }
}

fn newer(leased: &Leased, facts: &AttemptFacts) -> Newer {
    let latest = |same: bool| facts.live.iter().filter(|(_, sid)| (*sid == leased.sid) == same).map(|(joined_at, _)| *joined_at).max();
    Newer::of(latest(true), latest(false), leased.occurred_at, gravity_of(leased.compromise))
}

/// Whether somebody else might be telling the client at the same time: the claim was long ago, as after the whole process was suspended.
pub(super) fn could_outlast_its_lease(leased: &Leased, timeout: Duration, now: Timestamp) -> bool {
    now.plus(timeout) >= leased.lease_until
}

/// What is known of an attempt that was made.
pub(super) struct Sent {
    pub(super) outcome: Outcome,
    pub(super) jti: Option<String>,
    pub(super) kid: Option<String>,
    pub(super) remote_addr: Option<String>,
    pub(super) excerpt: Option<String>,
}

impl Sent {
    pub(super) fn not(failure: Failure) -> Self {
        Self { outcome: Outcome::Failed(failure), jti: None, kid: None, remote_addr: None, excerpt: None }
    }
}

/// A token on its way, and by what it is known.
struct Ready {
    token: Zeroizing<String>,
    jti: Option<String>,
    /// Whose key of ours it was signed with; none where it is the provider's.
    kid: Option<String>,
}

async fn send(tools: &Tools, claimed: &Arc<Claimed>, to: &Addressee<'_>, now: Timestamp) -> Sent {
    let Ready { token, jti, kid } = match &to.message {
        Message::Theirs(text) => {
            let jti = jwt_id(text).map(|jti| jti.as_str().to_owned());
            Ready { token: Zeroizing::new((*text).to_owned()), jti, kid: None }
        }
        Message::Ours(names) => match sign(tools, claimed, to.client, names, now).await {
            Ok(ready) => ready,
            Err(error) => {
                tracing::error!(delivery = %claimed.leased.id, error = &error as &dyn std::error::Error, "no logout token could be signed");
                return Sent::not(Failure::Ours);
            }
        },
    };
    let manner = match tools.signer.manner(to.client) {
        Ok(manner) => manner,
        Err(error) => {
            tracing::error!(delivery = %claimed.leased.id, error = &error as &dyn std::error::Error, "a client's certificate or headers cannot be opened");
            return Sent::not(Failure::Ours);
        }
    };
    let number = Progress::of(&claimed.leased).next_number();
    let network = address::effective(&claimed.facts.issuer.network, &to.client.delivery.network);
    let post = Post {
        url: to.uri,
        network: &network,
        manner: &manner,
        token: &token,
        delivery: &claimed.leased.id,
        attempt: number,
        timeout: to.timeout,
        now,
    };
    let Answer { outcome, remote_addr, excerpt, detail, body: _ } = tools.egress.post_logout_token(post).await;
    if let Some(detail) = detail {
        tracing::info!(delivery = %claimed.leased.id, client_id = %claimed.leased.client_id, number, detail, "an attempt got no answer");
    }
    Sent { outcome, jti, kid, remote_addr: remote_addr.map(|address| address.to_string()), excerpt }
}

/// A fresh token and the name of the key it was signed with.
async fn sign(
    tools: &Tools,
    claimed: &Arc<Claimed>,
    client: &ClientRecord,
    names: &Names<'_>,
    now: Timestamp,
) -> Result<Ready, SignerError> {
    let key = tools.signer.key(&claimed.facts.issuer, client.alg, now).await?;
    let (kid, jti) = (key.kid().to_owned(), tools.entropy.token());
    let draft = Draft {
        claimed: Arc::clone(claimed),
        sub: names.sub.cloned(),
        sid: names.sid.cloned(),
        typ: client.delivery.typ,
        jti: jti.clone(),
        issued_at: now,
        lifetime: tools.settings.token_lifetime,
    };
    let token = tools.signer.sign(key, move |key| draft.sign(key)).await?;
    Ok(Ready { token: Zeroizing::new(token), jti: Some(jti), kid: Some(kid) })
}

/// All that one token says, owned, so that another thread can sign it.
struct Draft {
    claimed: Arc<Claimed>,
    sub: Option<Subject>,
    sid: Option<Sid>,
    typ: TokenTyp,
    jti: String,
    issued_at: Timestamp,
    lifetime: Duration,
}

impl Draft {
    fn sign(&self, key: &SigningKey) -> Result<String, TokenError> {
        let Claimed { leased, facts } = &*self.claimed;
        let token = LogoutToken {
            issuer: &facts.issuer.issuer,
            audience: &leased.client_id,
            named: self.named().map_err(|Nameless| TokenError::NotSigned)?,
            jti: &self.jti,
            issued_at: self.issued_at,
            lifetime: self.lifetime,
            occurred_at: leased.occurred_at,
            typ: self.typ,
        };
        token.sign(key)
    }

    /// Which names is decided already: here they only change their form.
    fn named(&self) -> Result<Named<'_>, Nameless> {
        Named::choose(Claims::Both, self.sub.as_ref(), self.sid.as_ref())
    }
}

/// When an attempt began and ended.
pub(super) struct Span {
    pub(super) started_at: Timestamp,
    pub(super) began: Instant,
    pub(super) ended_at: Timestamp,
}

fn settled(tools: &Tools, leased: &Leased, settings: RetrySettings<'_>, sent: Sent, span: &Span) -> Settlement {
    let next = settle::settle(&Progress::of(leased), &sent.outcome, settings, span.ended_at, tools.entropy.unit());
    recorded(tools, leased, next, sent, span)
}

/// The settlement of an attempt whose meaning is known.
pub(super) fn recorded(tools: &Tools, leased: &Leased, next: settle::Settlement, sent: Sent, span: &Span) -> Settlement {
    let attempt = AttemptRecord {
        id: tools.entropy.id::<AttemptId>(span.started_at),
        number: Progress::of(leased).next_number(),
        started_at: span.started_at,
        duration: tools.clock.instant().saturating_duration_since(span.began),
        class: next.class,
        status: status_of(&sent.outcome),
        failure: failure_of(&sent.outcome),
        remote_addr: sent.remote_addr,
        jti: sent.jti,
        kid: sent.kid,
        excerpt: sent.excerpt,
        lease_lost: false,
    };
    Settlement {
        delivery: leased.id.clone(),
        kind: leased.kind,
        lease_token: leased.lease_token,
        verdict: next.verdict,
        tally: next.tally,
        attempts: next.attempts,
        attempt: Some(attempt),
    }
}

/// A settlement without an attempt: nothing was sent and nothing is charged.
pub(super) fn unsent(leased: &Leased, verdict: Verdict) -> Settlement {
    Settlement {
        delivery: leased.id.clone(),
        kind: leased.kind,
        lease_token: leased.lease_token,
        verdict,
        tally: leased.tally,
        attempts: leased.attempts,
        attempt: None,
    }
}

fn status_of(outcome: &Outcome) -> Option<u16> {
    match outcome {
        Outcome::Answered { status, .. } => Some(*status),
        Outcome::Failed(_) => None,
    }
}

fn failure_of(outcome: &Outcome) -> Option<Failure> {
    match outcome {
        Outcome::Answered { .. } => None,
        Outcome::Failed(failure) => Some(*failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::client::{Network, TokenTyp};
    use crate::model::delivery::{Class, DeliveryKind, Lane, Tally};
    use crate::model::issuer::{IssuerRecord, SESSION_MAX_AGE_DEFAULT};
    use crate::model::key::SigningAlg;
    use crate::model::{ClientId, DeliveryId, EventId, Id, Issuer, IssuerId, ParticipantId, SessionId};

    const COMMITTED: Timestamp = Timestamp::from_seconds(1_790_000_000);
    const LONGEST: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Timestamp {
        COMMITTED.plus(Duration::from_secs(seconds))
    }

    fn sid(text: &str) -> Sid {
        Sid::parse(text).unwrap()
    }

    /// A delivery to the wiki about alice's session s-1, claimed for its first attempt.
    fn claimed() -> Claimed {
        let (issuer, client_id) = (IssuerId::parse("main").unwrap(), ClientId::parse("wiki").unwrap());
        let id = || Id::from_parts(COMMITTED, 1);
        let leased = Leased {
            id: DeliveryId::from(id()),
            event: EventId::from(id()),
            lane: Lane::of(&issuer, &client_id),
            issuer: issuer.clone(),
            client_id: client_id.clone(),
            kind: DeliveryKind::LogoutToken,
            participant: ParticipantId::from(id()),
            session: SessionId::from(id()),
            sid: Some(sid("s-1")),
            sub: Some(Subject::parse("alice").unwrap()),
            class: Class::Interactive,
            retry: false,
            compromise: false,
            occurred_at: COMMITTED,
            created_at: COMMITTED,
            attempts: 0,
            tally: Tally::default(),
            horizon_at: at(3600),
            opened: crate::model::delivery::Opened::Once,
            prior: crate::model::delivery::PriorClaim::Closed,
            lease_token: 7,
            lease_until: at(60),
        };
        let client = ClientRecord {
            issuer: issuer.clone(),
            client_id,
            client_name: None,
            backchannel_logout_uri: Some("https://wiki.example/logout".parse().unwrap()),
            session_required: false,
            alg: SigningAlg::Es256,
            auth_method: None,
            secret_digest: None,
            secret_previous: None,
            jwks: None,
            jwks_uri: None,
            delivery: DeliverySettings { typ: TokenTyp::LogoutJwt, ..DeliverySettings::DEFAULT },
            auth_signing_alg: None,
            introspection_alg: None,
            tokens: crate::model::token::TokenPolicy::DEFAULT,
            created_at: COMMITTED,
            updated_at: COMMITTED,
            suspended_at: None,
            managed_by: crate::model::issuer::ManagedBy::Api,
            deleted_at: None,
            version: 1,
        };
        let issuer = IssuerRecord {
            id: issuer,
            issuer: Issuer::parse("https://op.example").unwrap(),
            signing_algs: vec![SigningAlg::Es256],
            session_max_age: SESSION_MAX_AGE_DEFAULT,
            expiry: crate::model::issuer::Expiry::Absolute,
            network: Network::default(),
            source: crate::model::issuer::ProviderSource::NONE,
            upstream: crate::model::issuer::Upstream::DEFAULT,
            provider_logout: None,
            access_tokens: crate::model::issuer::AccessTokens::DEFAULT,
            revocation: None,
            subject_secrets: None,
            managed_by: crate::model::issuer::ManagedBy::Api,
            created_at: COMMITTED,
            updated_at: COMMITTED,
            version: 1,
        };
        Claimed {
            leased,
            facts: AttemptFacts {
                issuer,
                client: Some(client),
                live: Vec::new(),
                undone: false,
                provider: None,
                relayed: None,
                revocation: None,
                trace: None,
            },
        }
    }

    fn client(claimed: &mut Claimed) -> &mut ClientRecord {
        claimed.facts.client.as_mut().unwrap()
    }

    /// Which of `sub` and `sid` would be sent, or how it settles unsent.
    fn decision(claimed: &Claimed, now: Timestamp) -> Result<(bool, bool), SettledReason> {
        match addressee(claimed, None, LONGEST, now) {
            Ok(Addressee { message: Message::Ours(names), .. }) => Ok((names.sub.is_some(), names.sid.is_some())),
            Ok(Addressee { message: Message::Theirs(_), .. }) => panic!("nothing was relayed"),
            Err(Verdict::Settled { reason, .. }) => Err(reason),
            Err(Verdict::Again { .. }) => unreachable!("what is not sent is settled"),
        }
    }

    #[test]
    fn a_client_that_lost_its_uri_is_told_nothing_more() {
        let mut claimed = claimed();
        assert_eq!(decision(&claimed, at(0)), Ok((true, true)));
        client(&mut claimed).backchannel_logout_uri = None;
        assert_eq!(decision(&claimed, at(0)), Err(SettledReason::NoUri));
        claimed.facts.client = None;
        assert_eq!(decision(&claimed, at(0)), Err(SettledReason::NoUri));
    }

    #[test]
    fn a_deleted_client_is_told_at_its_last_uri() {
        let mut claimed = claimed();
        client(&mut claimed).deleted_at = Some(at(1));
        assert_eq!(decision(&claimed, at(2)), Ok((true, true)));
    }

    #[test]
    fn nothing_is_sent_from_the_horizon_on() {
        let claimed = claimed();
        assert_eq!(decision(&claimed, at(3599)), Ok((true, true)));
        assert_eq!(decision(&claimed, at(3600)), Err(SettledReason::Horizon));
    }

    #[test]
    fn a_late_attempt_spares_a_newer_login_unless_it_was_a_compromise() {
        let mut claimed = claimed();
        claimed.leased.attempts = 1;
        claimed.facts.live = vec![(at(30), Some(sid("s-2")))];
        assert_eq!(decision(&claimed, at(60)), Ok((false, true)), "its sid alone is named");
        claimed.facts.live.push((at(20), Some(sid("s-1"))));
        assert_eq!(decision(&claimed, at(60)), Err(SettledReason::NewerLogin));
        claimed.leased.compromise = true;
        assert_eq!(decision(&claimed, at(60)), Ok((true, true)));
    }

    #[test]
    fn a_login_older_than_the_logout_changes_nothing() {
        let mut claimed = claimed();
        claimed.leased.attempts = 1;
        claimed.facts.live = vec![(COMMITTED.minus(Duration::from_secs(5)), Some(sid("s-1")))];
        assert_eq!(decision(&claimed, at(60)), Ok((true, true)));
    }

    #[test]
    fn the_claims_are_those_the_client_asks_for_now() {
        let mut claimed = claimed();
        client(&mut claimed).delivery.claims = Claims::Sub;
        assert_eq!(decision(&claimed, at(0)), Ok((true, false)));
        client(&mut claimed).session_required = true;
        assert_eq!(decision(&claimed, at(0)), Ok((true, true)));
        claimed.leased.sid = None;
        assert_eq!(decision(&claimed, at(0)), Err(SettledReason::NoSid));
    }

    #[test]
    fn an_attempt_takes_no_longer_than_the_deployment_allows_today() {
        let mut claimed = claimed();
        client(&mut claimed).delivery.timeout = Duration::from_mins(5);
        assert_eq!(addressee(&claimed, None, LONGEST, at(0)).map(|to| to.timeout), Ok(LONGEST));
        client(&mut claimed).delivery.timeout = Duration::from_secs(2);
        assert_eq!(addressee(&claimed, None, LONGEST, at(0)).map(|to| to.timeout), Ok(Duration::from_secs(2)));
    }

    #[test]
    fn an_attempt_that_could_outlast_its_lease_is_not_begun() {
        let leased = claimed().leased;
        assert!(!could_outlast_its_lease(&leased, LONGEST, at(49)));
        assert!(could_outlast_its_lease(&leased, LONGEST, at(50)));
    }
}
