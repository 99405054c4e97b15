//! Asking a provider about its opaque access tokens (RFC 7662 2).
//!
//! Nothing is kept of an answer: the next question may have another one.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::Url;
use zeroize::Zeroizing;

use super::AddressBook;
use crate::egress::{Answer, Keep, Method, Request};
use crate::model::attempt::Outcome;
use crate::model::issuer::{IssuerRecord, ProviderEndpoint};
use crate::model::provider_logout::ClientAuth;
use crate::model::{ClientId, Timestamp};
use crate::token::access_token::{Refused, Rules, Told, told};

/// How long an answer may take, the wait for a place included: somebody waits for a page.
const PATIENCE: Duration = Duration::from_secs(2);

/// The largest answer, in octets.
const ANSWER_OCTETS_MAX: usize = 64 * 1024;

/// How many questions may be under way at once, to all providers: a provider that is slow must not use up what others need.
pub(super) const QUESTIONS_MAX: usize = 64;

/// What is asked.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Whose token.
    pub issuer: &'a IssuerRecord,
    /// Where to ask.
    pub url: &'a Url,
    /// As whom.
    pub endpoint: &'a ProviderEndpoint,
    /// The secret of whoever asks; none for a public client.
    pub secret: Option<&'a Zeroizing<String>>,
    /// The token.
    pub token: &'a str,
    /// The present instant.
    pub now: Timestamp,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// Too many questions are under way.
    #[error("too many questions are under way")]
    Busy,
    /// The provider could not be reached, or did not answer in time.
    #[error("it gives no answer: {0}")]
    NoAnswer(String),
    /// It answered with another status than 200: it may not know us.
    #[error("it answers {0}")]
    Status(u16),
    /// What it answered is no answer to the question.
    #[error("its answer cannot be read")]
    Unread,
}

/// What a provider says of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It is active, and this is known of it.
    Active(Box<Told>),
    /// It is not active.
    Inactive,
    /// It is active and opens nothing here: another kind of token, or for somebody else.
    Refused(Refused),
}

impl AddressBook {
    /// Asks a provider about a token.
    pub async fn introspect(&self, question: Question<'_>) -> Result<Word, Silence> {
        let answer = tokio::time::timeout(PATIENCE, self.ask_in_turn(&question)).await;
        let word = answer.map_err(|_| Silence::NoAnswer("it takes too long".to_owned()))?.and_then(|body| read(&body, &question));
        if let Err(silence) = &word {
            tracing::warn!(issuer = %question.issuer.id, why = %silence, "the provider says nothing about a token");
        }
        word
    }

    async fn ask_in_turn(&self, question: &Question<'_>) -> Result<Vec<u8>, Silence> {
        let entry = self.entry(&question.issuer.id);
        let _place = entry.questions.acquire().await.map_err(|_| Silence::Busy)?;
        let form = Form::of(question);
        let authorization = form.basic.as_ref().map(|basic| Zeroizing::new(format!("Basic {}", basic.as_str())));
        let mut headers = vec![("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")];
        headers.extend(authorization.as_ref().map(|value| ("authorization", value.as_str())));
        let secrets: Vec<&str> =
            [Some(question.token), question.secret.map(|secret| secret.as_str()), form.basic.as_ref().map(|basic| basic.as_str())]
                .into_iter()
                .flatten()
                .collect();
        let request = Request {
            method: Method::Post,
            url: question.url,
            network: &question.issuer.network,
            headers: &headers,
            body: form.body.as_bytes(),
            secrets: &secrets,
            keep: Keep::Whole { octets_max: ANSWER_OCTETS_MAX },
            timeout: PATIENCE,
            now: question.now,
        };
        let Answer { outcome, body, detail, .. } = self.egress.send(request).await;
        match (outcome, body) {
            // RFC 7662 2.2: whatever is known of a token, and also that nothing is, comes with 200.
            (Outcome::Answered { status: 200, .. }, Some(body)) => Ok(body),
            (Outcome::Answered { status: 200, .. }, None) => Err(Silence::Unread),
            (Outcome::Answered { status, .. }, _) => Err(Silence::Status(status)),
            (Outcome::Failed(failure), _) => Err(Silence::NoAnswer(detail.unwrap_or_else(|| format!("{failure:?}")))),
        }
    }
}

fn read(body: &[u8], question: &Question<'_>) -> Result<Word, Silence> {
    let issuer = question.issuer;
    let rules = Rules { issuer: &issuer.issuer, audiences: &issuer.access_tokens.audiences, now: question.now };
    match told(body, &rules) {
        Ok(Some(told)) => Ok(Word::Active(Box::new(told))),
        Ok(None) => Ok(Word::Inactive),
        Err(Refused::Malformed) => Err(Silence::Unread),
        Err(refused) => Ok(Word::Refused(refused)),
    }
}

/// What is posted, and the value of the header where the secret is shown there (RFC 6749 2.3.1: both parts form-encoded before they are joined).
struct Form {
    body: Zeroizing<String>,
    basic: Option<Zeroizing<String>>,
}

impl Form {
    fn of(question: &Question<'_>) -> Self {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("token", question.token).append_pair("token_type_hint", "access_token");
        let client_id = question.endpoint.client_id.as_ref().map_or("", ClientId::as_str);
        let basic = match (question.endpoint.method, question.secret) {
            (ClientAuth::Basic, Some(secret)) => {
                let pair = Zeroizing::new(format!("{}:{}", form_encoded(client_id).as_str(), form_encoded(secret).as_str()));
                Some(Zeroizing::new(STANDARD.encode(pair.as_bytes())))
            }
            (ClientAuth::Post, Some(secret)) => {
                form.append_pair("client_id", client_id).append_pair("client_secret", secret);
                None
            }
            (ClientAuth::Basic | ClientAuth::Post, None) => {
                form.append_pair("client_id", client_id);
                None
            }
        };
        Self { body: Zeroizing::new(form.finish()), basic }
    }
}

fn form_encoded(text: &str) -> Zeroizing<String> {
    Zeroizing::new(url::form_urlencoded::byte_serialize(text.as_bytes()).collect())
}
