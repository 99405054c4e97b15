//! The chore of keys: providers are asked for theirs, ours begin, cease and are forgotten, and whatever is not where it should be is told.

use std::fmt;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde_json::json;

use super::{Step, Tools};
use crate::issuers::Away;
use crate::lifecycle::Died;
use crate::model::access::Caller;
use crate::model::alarm::{AlarmKind, Raised};
use crate::model::audit::Act;
use crate::model::issuer::{IssuerRecord, ProviderDocument};
use crate::model::key::{KeyRecord, KeyState, SigningAlg};
use crate::model::page::{PAGE_ITEMS_MAX, Page};
use crate::observe::{KeyAlarm, KeyPassed, KeyTrouble};
use crate::plan::keys::{Alarm, Change, alarm, due};
use crate::store::{AuditEntry, StoreError};
use crate::token::jwks::merge;
use crate::token::{JwkRefused, TokenError, generate};

/// How many providers are asked at once: one that does not answer keeps few others waiting.
const AT_ONCE: usize = 8;

/// Looks after the keys of every issuer, once.
pub async fn step(tools: &Tools) -> Result<Step, StoreError> {
    let mut page = Page { limit: PAGE_ITEMS_MAX, after: None };
    let mut failed = None;
    loop {
        let issuers = tools.store.issuers(page).await?;
        let asked: Vec<BoxFuture<'static, _>> = issuers.items.into_iter().map(|issuer| look_after(tools.clone(), issuer).boxed()).collect();
        let mut each = stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some(outcome) = each.next().await {
            // One issuer that fails keeps no other from being looked after.
            failed = failed.or(outcome.err());
        }
        match (issuers.next, failed) {
            (None, None) => return Ok(Step::Dry),
            (None, Some(error)) => return Err(error),
            (after @ Some(_), so_far) => (page, failed) = (Page { limit: PAGE_ITEMS_MAX, after }, so_far),
        }
    }
}

async fn look_after(tools: Tools, issuer: IssuerRecord) -> Result<(), StoreError> {
    let tools = &tools;
    if issuer.source.is_known() {
        ask(tools, &issuer).await?;
    }
    let (keys, now) = (tools.store.keys(&issuer.id).await?, tools.store.now().await?);
    for change in due(&keys, issuer.source.published_at, &tools.keys, now) {
        apply(tools, &issuer, change).await?;
    }
    Ok(())
}

/// Asks the provider, keeps what it says and tells what is wrong with it.
async fn ask(tools: &Tools, issuer: &IssuerRecord) -> Result<(), StoreError> {
    let now = tools.store.now().await?;
    let keys = tools.store.keys(&issuer.id).await?;
    let document = match tools.book.sight(issuer, &keys, now).await {
        Ok((document, sightings)) => {
            tools.store.saw_provider(document.clone(), sightings).await?;
            document
        }
        Err(away) => {
            let trouble = if away == Away::Refused(JwkRefused::Own) { KeyTrouble::Loop } else { KeyTrouble::Away };
            return raise(tools, vec![say(issuer, trouble, "provider", &away.to_string())]).await;
        }
    };
    tell(tools, issuer, &document).await
}

async fn tell(tools: &Tools, issuer: &IssuerRecord, document: &ProviderDocument) -> Result<(), StoreError> {
    let (keys, dropped) = (tools.store.keys(&issuer.id).await?, tools.store.dropped_keys(&issuer.id).await?);
    let mut raised = Vec::new();
    for key in &keys {
        let trouble = match alarm(key, issuer.source.published_at) {
            Some(Alarm::NotPublished) => KeyTrouble::NotPublished,
            Some(Alarm::Left) => KeyTrouble::Left,
            None => continue,
        };
        raised.push(say(issuer, trouble, &key.kid, &key.kid));
    }
    if let Ok(merged) = merge(&issuer.id, &keys, Some(document), &dropped) {
        raised.extend(merged.collisions.iter().map(|kid| say(issuer, KeyTrouble::NameTaken, kid, kid)));
        if merged.left_out > 0 {
            raised.push(say(issuer, KeyTrouble::LeftOut, "provider", &format!("{} keys", merged.left_out)));
        }
    }
    raise(tools, raised).await
}

/// Says it aloud, each time it is found to be so. Two troubles with one thing are two alarms.
fn say(issuer: &IssuerRecord, trouble: KeyTrouble, of: &str, about: &str) -> Raised {
    KeyAlarm { issuer: &issuer.id, trouble, about }.emit();
    let of: String = of.chars().take(ABOUT_CHARS_MAX).collect();
    Raised::once(AlarmKind::KeyTrouble, Some(&issuer.id), &format!("{of}: {}", trouble.as_str()), trouble.sentence())
}

/// How much of a provider's key's name is kept.
const ABOUT_CHARS_MAX: usize = 255;

async fn raise(tools: &Tools, raised: Vec<Raised>) -> Result<(), StoreError> {
    tools.store.raise_alarms(raised).await.map(|_| ())
}

async fn apply(tools: &Tools, issuer: &IssuerRecord, change: Change) -> Result<(), StoreError> {
    let itself = |act, kid: &str| AuditEntry {
        act,
        caller: Caller::itself(&issuer.id),
        actor: None,
        issuer: Some(issuer.id.clone()),
        event: None,
        detail: json!({ "kid": kid }).to_string(),
    };
    let passed = |kid: &str, state: KeyState| KeyPassed { issuer: &issuer.id, kid, state: state.as_str() }.emit();
    match change {
        Change::Make(alg) => {
            let key = make(tools, issuer, alg).await?;
            let (kid, audit) = (key.kid.clone(), itself(Act::KeyCreated, &key.kid));
            if tools.store.add_next_key(key, audit).await? {
                passed(&kid, KeyState::Next);
            }
        }
        Change::Activate(kid) => {
            if tools.store.activate_key(&issuer.id, &kid, itself(Act::KeyActivated, &kid)).await? {
                passed(&kid, KeyState::Active);
            }
        }
        Change::Withdraw(kid) => {
            tools.store.withdraw_key(&issuer.id, &kid, itself(Act::KeyWithdrawn, &kid)).await?;
            passed(&kid, KeyState::Withdrawn);
        }
        Change::Forget(kid) => {
            tools.store.forget_key(&issuer.id, &kid).await?;
        }
    }
    Ok(())
}

/// There is no new key: our own fault, and told as such.
#[derive(Debug)]
enum NotMade {
    Died(Died),
    Token(TokenError),
}

impl fmt::Display for NotMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died(died) => died.fmt(f),
            Self::Token(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NotMade {}

async fn make(tools: &Tools, issuer: &IssuerRecord, alg: SigningAlg) -> Result<KeyRecord, StoreError> {
    let not_made = |error| StoreError::Unavailable(Box::new(error));
    let made = tools.tasks.spawn_blocking("key generation", move || generate(alg)).await;
    let made = made.map_err(NotMade::Died).and_then(|made| made.map_err(NotMade::Token)).map_err(not_made)?;
    let now = tools.store.now().await?;
    Ok(made.into_record(issuer.id.clone(), KeyState::Next, now, &tools.sealing, &tools.entropy))
}
