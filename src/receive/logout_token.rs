//! Logout tokens that an issuer's provider sends (BCL 2.5 to 2.8): look, verify, commit, ring, answer.
//!
//! Anybody may post here, and a token speaks for itself. In a relay it is meant for one of the provider's clients, which is told with patience what it was
//! to be told; in a cascade for this server, and the session ends everywhere. What is answered 200 is committed; whoever is to be told is told afterwards.
//!
//! Why a commit that did not happen, and keys that cannot be had, are answered 503 where BCL 2.8 knows only 400: a sender takes 400 for the last word,
//! and the logout would be lost.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::logouts::tell;
use crate::http::problem::{OauthError, OauthErrorDocument};
use crate::http::provider_keys::{Blame, NoKeys, held_against_keys};
use crate::http::{AppState, Code, FormUpTo, Path, Problem, public_issuer};
use crate::model::ClientId;
use crate::model::access::Caller;
use crate::model::event::{EventState, Receipt};
use crate::model::issuer::{IssuerRecord, RelayToken, UpstreamMode};
use crate::model::key::SigningAlg;
use crate::model::session::SessionName;
use crate::model::trigger::{Except, Reason, Target, Trigger};
use crate::observe::{LogoutTokenReceived, TokenOutcome, traces};
use crate::plan::{effects, relay};
use crate::store::{ReceivedToken, SealedToken, StoreError, TokenEffect, TokenOrder, TokenRefused, TokenTaken};
use crate::token::Sealed;
use crate::token::verify::{About, ExpNeed, Inspected, Refused, Rules, Verified, inspect, verify};

/// The largest body: a token and room for parameters nobody knows.
const BODY_OCTETS_MAX: usize = 32 << 10;

/// What a provider posts, as a form.
#[derive(Clone, Debug, ToSchema)]
#[expect(dead_code, reason = "describes the form; its parameter is read by name, since those that are not known are ignored (BCL 2.5)")]
pub struct LogoutTokenForm {
    /// The provider's logout token, as a compact JWS.
    logout_token: String,
}

/// Why a token was not taken.
#[derive(Debug)]
enum Fault {
    /// It is none, or none for us.
    Refused(Refused),
    /// Its `jti` was another token's.
    JtiReused,
    /// Nobody registered where the issuer's keys are, or in a cascade by which name the provider knows this server.
    NotSetUp(&'static str),
    /// The keys cannot be had. Why, the address book told the log when it asked.
    Away,
    /// It is not known to be committed.
    Store(StoreError),
    /// It names more than may end at once, or another bound.
    Other(Problem),
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<NoKeys> for Fault {
    fn from(none: NoKeys) -> Self {
        match none {
            NoKeys::NotSetUp => Self::NotSetUp("where this issuer's provider publishes its keys is not registered"),
            NoKeys::Away => Self::Away,
            NoKeys::Store(error) => Self::Store(error),
        }
    }
}

impl From<TokenRefused> for Fault {
    fn from(refused: TokenRefused) -> Self {
        match refused {
            TokenRefused::JtiReused => Self::JtiReused,
            TokenRefused::Commit(crate::store::CommitRefused::Store(error)) => Self::Store(error),
            TokenRefused::Commit(refused) => Self::Other(refused.into()),
        }
    }
}

impl Fault {
    fn outcome(&self) -> TokenOutcome {
        match self {
            Self::Refused(refused) => TokenOutcome::Refused(refused.as_str()),
            Self::JtiReused => TokenOutcome::Refused("jti_reused"),
            Self::NotSetUp(_) => TokenOutcome::Refused("not_set_up"),
            Self::Other(_) => TokenOutcome::Refused("other"),
            Self::Away | Self::Store(_) => TokenOutcome::Deferred,
        }
    }
}

impl From<Fault> for OauthError {
    fn from(fault: Fault) -> Self {
        let problem = match fault {
            // BCL 2.8: 400, whatever is wrong with it.
            Fault::Refused(refused) => Problem::new(Code::MalformedRequest, refused.why()),
            Fault::JtiReused => Problem::new(Code::MalformedRequest, "the logout token's jti was used for another one"),
            Fault::NotSetUp(why) => Problem::new(Code::MalformedRequest, why),
            Fault::Away => Problem::new(Code::Unavailable, "its issuer's keys cannot be had: send the token again"),
            Fault::Store(error @ (StoreError::Unavailable(_) | StoreError::Unread(_))) => {
                Problem::new(Code::Unavailable, "not known to be committed: send the token again").caused_by(error)
            }
            Fault::Store(error @ StoreError::Corrupt { .. }) => Problem::internal(error),
            Fault::Other(problem) => problem,
        };
        Self::from(problem)
    }
}

/// Take a logout token of the issuer's provider (OpenID Connect Back-Channel Logout 1.0).
///
/// Point an application's own back-channel logout URI at the provider here: the token is verified, the participation ends, and the application is told with
/// patience. 200 means that it is durably accepted; 400 that the token is none that ends anything here; 503 that it is to be sent again.
#[utoipa::path(post, path = "/{iss}/backchannel-logout", tag = "public", operation_id = "postLogoutToken",
    params(("iss" = String, Path, description = "The issuer's short id.")),
    request_body(content = LogoutTokenForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "It is certain, also if it was before."),
        (status = 400, description = "Not a logout token for anybody here; nothing ended.", body = OauthErrorDocument),
        (status = 503, description = "Not known to be committed, or its issuer's keys cannot be had: send it again.", body = OauthErrorDocument),
        (status = "default", description = "An OAuth error.", body = OauthErrorDocument),
    ))]
pub async fn post_logout_token(
    State(app): State<AppState>,
    Path(iss): Path<String>,
    FormUpTo(form): FormUpTo<BODY_OCTETS_MAX>,
) -> Result<Response, OauthError> {
    let issuer = public_issuer(&app, &iss).await?;
    let taken = match form.optional("logout_token") {
        Some(text) => take(&app, &issuer, text).await,
        None => Err(Fault::Refused(Refused::Malformed)),
    };
    let outcome = match &taken {
        Ok(taken) => outcome_of(taken),
        Err(fault) => fault.outcome(),
    };
    LogoutTokenReceived { issuer: &issuer.id, outcome }.emit();
    ring(&app, &taken?);
    // BCL 2.8: exactly 200, and nothing to read.
    Ok(StatusCode::OK.into_response())
}

const fn outcome_of(taken: &TokenTaken) -> TokenOutcome {
    match taken {
        TokenTaken::Committed(_) => TokenOutcome::Accepted,
        TokenTaken::Joined(_) => TokenOutcome::Joined,
        TokenTaken::Repeated => TokenOutcome::Repeated,
        TokenTaken::Echoed => TokenOutcome::Echoed,
    }
}

/// Wakes whoever goes on with it.
fn ring(app: &AppState, taken: &TokenTaken) {
    let receipt: &Receipt = match taken {
        TokenTaken::Committed(receipt) => {
            tell(receipt, crate::model::delivery::Class::Interactive);
            receipt
        }
        TokenTaken::Joined(receipt) => receipt,
        TokenTaken::Repeated | TokenTaken::Echoed => return,
    };
    app.doorbell.notify_one();
    if receipt.state == EventState::Expanding {
        app.bells.works.notify_one();
    }
}

async fn take(app: &AppState, issuer: &IssuerRecord, text: &str) -> Result<TokenTaken, Fault> {
    let token = inspect(text)?;
    let addressee = addressee(app, issuer, &token).await?;
    // Whatever is fetched is fetched before any transaction.
    let verified = verified(app, issuer, &token, &addressee).await?;
    traces::vouch();
    let order = match issuer.upstream.mode {
        UpstreamMode::Relay => relay_order(app, issuer, text, &verified),
        UpstreamMode::Cascade => cascade_order(issuer, &verified),
    };
    Ok(app.store.take_token(order).await?)
}

/// Whom a token must be for, and with what it must be signed: registered, not what it says itself.
struct Addressee {
    client_id: ClientId,
    alg: SigningAlg,
}

async fn addressee(app: &AppState, issuer: &IssuerRecord, token: &Inspected) -> Result<Addressee, Fault> {
    match issuer.upstream.mode {
        UpstreamMode::Relay => {
            let client_id = token.audience()?;
            let client = app.store.client(&issuer.id, &client_id).await?.filter(|client| client.deleted_at.is_none());
            let client = client.ok_or(Refused::Audience)?;
            Ok(Addressee { client_id, alg: client.alg })
        }
        UpstreamMode::Cascade => {
            const NOT_SET_UP: Fault = Fault::NotSetUp("this issuer's upstream.client_id is not registered");
            let client_id = issuer.upstream.client_id.clone().ok_or(NOT_SET_UP)?;
            Ok(Addressee { client_id, alg: issuer.upstream.alg })
        }
    }
}

/// The token held against its issuer's keys.
async fn verified(app: &AppState, issuer: &IssuerRecord, token: &Inspected, addressee: &Addressee) -> Result<Verified, Fault> {
    let now = app.store.now().await?;
    let rules = Rules {
        issuer: &issuer.issuer,
        audience: &addressee.client_id,
        alg: addressee.alg,
        exp: if issuer.upstream.require_exp { ExpNeed::Required } else { ExpNeed::Optional },
        now,
    };
    Ok(held_against_keys(app, issuer, token.kid(), now, |keys| verify(token, keys, &rules), blame).await??)
}

fn blame(refused: &Refused) -> Blame {
    match refused {
        Refused::UnknownKey => Blame::UnknownKey,
        Refused::Signature => Blame::Signature,
        Refused::Malformed
        | Refused::Encrypted
        | Refused::Critical
        | Refused::Type
        | Refused::Algorithm
        | Refused::Issuer
        | Refused::Audience
        | Refused::IssuedAt
        | Refused::Expiry
        | Refused::Names
        | Refused::Event
        | Refused::Nonce
        | Refused::Jti => Blame::Token,
    }
}

fn trigger(issuer: &IssuerRecord, target: Target, verified: &Verified) -> Trigger {
    Trigger {
        issuer: issuer.id.clone(),
        target,
        except: Except::default(),
        reason: Reason::Upstream,
        reason_detail: None,
        occurred_at: Some(verified.issued_at()),
        revoke_offline_access: false,
        tell_provider: None,
        actor: None,
        correlation_id: None,
        note: None,
        caller: Caller::provider(&issuer.id),
        idempotency: None,
    }
}

fn received(verified: &Verified) -> ReceivedToken {
    ReceivedToken {
        audience: verified.audience().clone(),
        jti: verified.jti().clone(),
        digest: *verified.digest(),
        taken_until: verified.taken_until(),
    }
}

/// Only that client's participation, by the names it knows.
fn relay_order(app: &AppState, issuer: &IssuerRecord, text: &str, verified: &Verified) -> TokenOrder {
    let client_id = verified.audience().clone();
    let (target, shown) = match verified.about() {
        About::Sid(sid) | About::Both(_, sid) => {
            (Target::ClientSid { client_id: client_id.clone(), client_sid: sid.clone() }, named("sid", sid.as_str(), &client_id))
        }
        About::Sub(sub) => {
            (Target::ClientSub { client_id: client_id.clone(), client_sub: sub.clone() }, named("sub", sub.as_str(), &client_id))
        }
    };
    let theirs = match issuer.upstream.relay_token {
        RelayToken::VerbatimThenOwn => Some(SealedToken {
            octets: app.sealing.seal(&Sealed::relayed_token(&issuer.id, &client_id), text.as_bytes(), &app.entropy),
            fresh_until: verified.fresh_until(),
        }),
        RelayToken::Own => None,
    };
    let trigger = trigger(issuer, target, verified);
    let about = verified.about();
    TokenOrder {
        reach: relay::reach(&trigger),
        target_json: shown.to_string(),
        received: received(verified),
        effect: TokenEffect::Relay { sub: about.sub().cloned(), sid: about.sid().cloned(), theirs },
        opening: relay::opening,
        trigger,
    }
}

fn named(member: &str, name: &str, client_id: &ClientId) -> Value {
    json!({ member: name, "client_id": client_id.as_str() })
}

/// The session everywhere; where none is known by its `sid`, those of the person that have none.
fn cascade_order(issuer: &IssuerRecord, verified: &Verified) -> TokenOrder {
    let (target, shown) = match verified.about() {
        About::Sid(sid) | About::Both(_, sid) => (Target::Session(SessionName::Sid(sid.clone())), json!({ "sid": sid.as_str() })),
        About::Sub(sub) => (Target::Subject(sub.clone()), json!({ "sub": sub.as_str() })),
    };
    let otherwise = match verified.about() {
        About::Both(sub, _) => Some(sub.clone()),
        About::Sid(_) | About::Sub(_) => None,
    };
    let trigger = trigger(issuer, target, verified);
    TokenOrder {
        reach: effects::reach(&trigger),
        target_json: shown.to_string(),
        received: received(verified),
        effect: TokenEffect::Cascade { otherwise },
        opening: effects::opening,
        trigger,
    }
}
