//! The chores of the audit trail: records are linked to the chain after their commit, and what was kept long enough goes behind a signed checkpoint.
//!
//! Why after the commit: a chain inside the transaction of what it records would make every logout wait for every other. So there is always a tail that
//! nothing vouches for yet, a few seconds of it; how long it is, is measured and told. Sealing twice seals once: a batch is kept only if the chain still ends
//! where the batch begins.

use std::time::Duration;

use serde_json::json;

use super::{Step, Tools};
use crate::lifecycle::Stop;
use crate::model::Timestamp;
use crate::model::access::Caller;
use crate::model::alarm::{AlarmKind, Raised};
use crate::model::audit::{Act, AuditKey, AuditKeyState, AuditRecord, Checkpoint, Head, Link, Tip, TrailRecord};
use crate::model::key::SigningAlg;
use crate::observe::{AuditHeadSigned, AuditStanding};
use crate::seams::Entropy;
use crate::store::{AuditEntry, Sealing, Store, StoreError};
use crate::token::audit::{first_broken, genesis, link, sign_checkpoint, sign_head};
use crate::token::{SealingKey, SigningKey, generate};

/// How many records one head is signed over at most.
const BATCH: u16 = 500;
/// What signs heads and receipts: small signatures, and every library knows it.
const ALG: SigningAlg = SigningAlg::Es256;
/// How old heads are of which one an hour is enough.
const THINNED_AFTER: Duration = Duration::from_hours(24);

/// Makes the key of the trail, where there is none yet.
pub async fn ensure_key(store: &Store, sealing: &SealingKey, entropy: &Entropy) -> Result<(), StoreError> {
    if store.audit_keys().await?.iter().any(|key| key.state == AuditKeyState::Active) {
        return Ok(());
    }
    let key = generate(ALG).map_err(failed)?.into_audit_key(AuditKeyState::Active, store.now().await?, sealing, entropy);
    let detail = json!({ "kid": key.kid }).to_string();
    let entry = AuditEntry { act: Act::AuditKeyCreated, caller: Caller::server(), actor: None, issuer: None, event: None, detail };
    // Of two processes that start at once one is first.
    store.add_audit_key(key, entry).await.map(drop)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

/// Seals one batch.
pub async fn step(tools: &Tools) -> Result<Step, StoreError> {
    let records = tools.store.unsealed_records(BATCH).await?;
    let full = records.len() == usize::from(BATCH);
    if records.is_empty() {
        return Ok(Step::Dry);
    }
    let (keys, state) = (tools.store.audit_keys().await?, tools.store.trail_state().await?);
    let Some(active) = in_state(&keys, AuditKeyState::Active) else {
        ensure_key(&tools.store, &tools.sealing, &tools.entropy).await?;
        return Ok(Step::More);
    };
    let next = in_state(&keys, AuditKeyState::Next).map(|key| key.kid.clone());
    let gone = state.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.tip.seq);
    let before = state.head.map_or_else(genesis, |head| head.tip);
    prove(tools, gone, &before).await?;
    let order = batch(tools, records, &before, active, next).await?;
    // A batch that is not kept was somebody else's, or one of its records was changed meanwhile: the next look finds what is left.
    let kept = tools.store.seal_records(order).await?;
    Ok(if full && kept { Step::More } else { Step::Dry })
}

/// Looks at the newest of what is sealed before more is linked to it: who changed it is most likely to have done so lately. All of it is for
/// `logoutd audit verify`.
async fn prove(tools: &Tools, gone: u64, tip: &Tip) -> Result<(), StoreError> {
    let after = gone.max(tip.seq.saturating_sub(u64::from(BATCH)));
    let records = tools.store.sealed_records(after, BATCH).await?;
    if let Some(seq) = first_broken(after, &records, tip) {
        let message = format!("record {seq} of the audit trail is not what it was when it was sealed: `logoutd audit verify` says more");
        tools.store.raise_alarms(vec![Raised::once(AlarmKind::AuditBroken, None, "audit trail", message)]).await?;
    }
    Ok(())
}

fn in_state(keys: &[AuditKey], state: AuditKeyState) -> Option<&AuditKey> {
    keys.iter().find(|key| key.state == state)
}

async fn batch(
    tools: &Tools,
    records: Vec<TrailRecord>,
    before: &Tip,
    key: &AuditKey,
    next: Option<String>,
) -> Result<Sealing, StoreError> {
    let (mut tip, mut linked): (Tip, Vec<(AuditRecord, Link)>) = (*before, Vec::with_capacity(records.len()));
    for TrailRecord { record, .. } in records {
        let link = link(&tip, &record, &tools.entropy).map_err(failed)?;
        tip = Tip { seq: link.seq, chain: link.chain };
        linked.push((record, link));
    }
    let at = tools.store.now().await?;
    let signer = SigningKey::unseal_audit(key, &tools.sealing).map_err(failed)?;
    let jws = sign_head(&tip, before, next.as_deref(), at, &signer).map_err(failed)?;
    let head = Head { tip, at, kid: key.kid.clone(), jws };
    Ok(Sealing { after: *before, records: linked, head, next })
}

/// Lets one step's worth of what was kept long enough go: all that a head from before that time covers, once a checkpoint says so.
pub async fn forget(tools: &Tools) -> Result<Step, StoreError> {
    let now = tools.store.now().await?;
    if tools.store.purge_trail().await? + tools.store.thin_heads(now.minus(THINNED_AFTER)).await? > 0 {
        return Ok(Step::More);
    }
    let Some(head) = tools.store.head_before(now.minus(tools.keep.audit)).await? else { return Ok(Step::Dry) };
    let gone = tools.store.trail_state().await?.checkpoint.map_or(0, |checkpoint| checkpoint.tip.seq);
    let keys = tools.store.audit_keys().await?;
    match in_state(&keys, AuditKeyState::Active).filter(|_| head.tip.seq > gone) {
        None => Ok(Step::Dry),
        Some(key) => {
            let signer = SigningKey::unseal_audit(key, &tools.sealing).map_err(failed)?;
            let jws = sign_checkpoint(&head.tip, now, &signer).map_err(failed)?;
            tools.store.keep_checkpoint(Checkpoint { tip: head.tip, at: now, jws }).await?;
            Ok(Step::More)
        }
    }
}

/// How often the trail is looked at for those who watch it.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often a head is told at most.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// What was told of the trail last: which head, and when.
#[derive(Debug, Default)]
pub struct Told(Option<(u64, Timestamp)>);

/// Measures the trail and tells its heads until the stop. Every process does so for itself: whoever reads the log of one has the heads of all.
pub(super) async fn watch(tools: Tools, stop: Stop) {
    let mut told = Told::default();
    while !stop.is_requested() {
        if let Err(error) = look(&tools, &mut told).await {
            error.tell("audit_trail");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.requested() => return,
        }
    }
}

/// Measures once.
pub async fn look(tools: &Tools, told: &mut Told) -> Result<(), StoreError> {
    let (state, now) = (tools.store.trail_state().await?, tools.store.now().await?);
    AuditStanding {
        seq: state.head.as_ref().map_or(0, |head| head.tip.seq),
        age: state.head.as_ref().map(|head| now.since(head.at)),
        unsealed: state.unsealed,
        unsealed_for: state.unsealed_since.map(|since| now.since(since)),
    }
    .emit();
    let Some(head) = state.head else { return Ok(()) };
    let due = told.0.is_none_or(|(seq, at)| seq != head.tip.seq && now.since(at) >= TELL_EVERY);
    if due {
        AuditHeadSigned { seq: head.tip.seq, chain: &head.tip.chain.to_string(), kid: &head.kid, head: &head.jws }.emit();
        told.0 = Some((head.tip.seq, now));
    }
    Ok(())
}
