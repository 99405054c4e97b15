//! The chores of the audit trail: records are linked to the chain after their commit, and what was kept long enough goes behind a signed checkpoint.
//!
//! Why after the commit: a chain inside the transaction of what it records would make every logout wait for every other. So there is always a tail that
//! nothing vouches for yet, a few seconds of it; how long it is, is measured and told. Sealing twice seals once: a batch is kept only if the chain still ends
//! where the batch begins.
//!
//! Nothing is signed because it stands in the database. A record is sealed if it was written with the sealing key at hand, and otherwise left where it is, for
//! whoever asks what happened; the others do not wait for it. A head or a checkpoint is built on what this server signed itself. Where that is not there, or a
//! key that it did not make would sign, nothing is sealed and nothing forgotten until somebody has looked: to go on would be to vouch for what is not known.

use std::time::Duration;

use serde_json::json;

use super::{Step, Tools};
use crate::lifecycle::Stop;
use crate::model::access::Caller;
use crate::model::alarm::{AlarmKind, Raised};
use crate::model::audit::{Act, AuditKeyState, Checkpoint, Head, HeadMark, Link, Tip, TrailRecord, TrailState};
use crate::model::key::SigningAlg;
use crate::model::page::Cursor;
use crate::model::{AuditId, Timestamp};
use crate::observe::{AuditHeadSigned, AuditStanding};
use crate::seams::Entropy;
use crate::store::{AuditEntry, Sealing, Store, StoreError};
use crate::token::audit::{
    Before, Shaken, SignedHead, Standing, Successor, first_broken, genesis, is_ours, link, own_keys, sign_checkpoint, sign_head, standing,
    stored_head,
};
use crate::token::{SealingKey, generate};

/// How many records one head is signed over at most.
const BATCH: u16 = 500;
/// What signs heads and receipts: small signatures, and every library knows it.
const ALG: SigningAlg = SigningAlg::Es256;
/// How old heads are of which one an hour is enough.
const THINNED_AFTER: Duration = Duration::from_hours(24);

/// Makes the key of the trail, where there is none yet, once the records of an earlier version are proven. Where there was one, or something was sealed, another
/// would only cover what happened to it.
pub async fn ensure_key(store: &Store, sealing: &SealingKey, entropy: &Entropy) -> Result<(), StoreError> {
    let (keys, state) = store.trail_with_keys().await?;
    if !keys.is_empty() || state.head.is_some() || state.checkpoint.is_some() {
        return Ok(());
    }
    while store.adopt_records().await? > 0 {}
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
    told(tools, seal_batch(tools).await).await
}

async fn seal_batch(tools: &Tools) -> Result<Step, StoreError> {
    let Some((standing, state)) = stands(tools).await? else { return Ok(Step::Dry) };
    let Waiting { records, behind } = waiting(tools, &standing).await?;
    if records.is_empty() {
        return Ok(Step::Dry);
    }
    prove(tools, &standing, &state).await?;
    let order = batch(tools, &records, &standing).await?;
    // A batch that is not kept was somebody else's: the next look finds what is left.
    let kept = tools.store.seal_records(order).await?;
    Ok(match behind {
        Behind::More if kept => Step::More,
        Behind::More | Behind::Nothing => Step::Dry,
    })
}

/// What cannot be read because it is nothing that this server writes, is found by whoever reads it first.
async fn told(tools: &Tools, outcome: Result<Step, StoreError>) -> Result<Step, StoreError> {
    if let Err(StoreError::Corrupt { table: table @ ("audit" | "audit_heads" | "audit_checkpoints" | "audit_keys"), column }) = &outcome {
        alarm(tools, "audit trail", format!("{table}.{column} holds what this server never writes: nothing of the audit trail is sealed"))
            .await?;
    }
    outcome
}

async fn alarm(tools: &Tools, about: &str, message: String) -> Result<(), StoreError> {
    tools.store.raise_alarms(vec![Raised::once(AlarmKind::AuditBroken, None, about, message)]).await.map(drop)
}

/// Records to be sealed, and whether others may wait behind them.
struct Waiting {
    records: Vec<TrailRecord>,
    behind: Behind,
}

#[derive(Clone, Copy)]
enum Behind {
    Nothing,
    More,
}

/// The next records that this server wrote. Those it did not stay where they are, and keep no other from its place in the chain. So does what is as old as
/// what was forgotten: somebody kept it and put it back.
async fn waiting(tools: &Tools, standing: &Standing) -> Result<Waiting, StoreError> {
    let forgotten = |one: &TrailRecord| standing.checkpoint.is_some_and(|gone| one.record.at < gone.until);
    let (mut after, mut foreign): (Option<Cursor>, Option<TrailRecord>) = (None, None);
    let found = loop {
        let page = tools.store.unsealed_records(after.as_ref(), BATCH).await?;
        let behind = if page.len() == usize::from(BATCH) { Behind::More } else { Behind::Nothing };
        after = page.last().map(|last| Cursor { at: last.record.at, id: last.record.id.to_string() });
        let (records, others): (Vec<_>, Vec<_>) = page.into_iter().partition(|one| is_ours(one, &tools.sealing) && !forgotten(one));
        foreign = foreign.or_else(|| others.into_iter().next());
        if !records.is_empty() || matches!(behind, Behind::Nothing) {
            break Waiting { records, behind };
        }
    };
    if let Some(TrailRecord { record, .. }) = foreign {
        // Its id is what somebody wrote there.
        let id = AuditId::parse(record.id.as_str()).map_or_else(|| "(no id of ours)".to_owned(), |id| id.to_string());
        let message = format!(
            "record {id} of the audit trail was not written by this server, or was changed or put back before it was sealed: it is never sealed, the others are"
        );
        alarm(tools, "audit record", message).await?;
    }
    Ok(found)
}

/// What the next signature is built on, if this server can answer for it.
async fn stands(tools: &Tools) -> Result<Option<(Standing, TrailState)>, StoreError> {
    let (keys, state) = tools.store.trail_with_keys().await?;
    let standing = match standing(&keys, &state, &tools.sealing) {
        Ok(standing) => standing,
        Err(shaken) => return shake(tools, shaken).await.map(|()| None),
    };
    if standing.successor == Successor::Foreign {
        let message = "the key that waits to sign the audit trail is not one that this server made: it is never announced, and the present one goes on signing";
        alarm(tools, "audit key", message.to_owned()).await?;
    }
    Ok(Some((standing, state)))
}

async fn shake(tools: &Tools, shaken: Shaken) -> Result<(), StoreError> {
    alarm(tools, "audit trail", format!("{shaken}: nothing is sealed and nothing is forgotten until somebody has looked")).await
}

/// Looks at the newest of what is sealed before more is linked to it: who changed it is most likely to have done so lately. All of it is for
/// `logoutd audit verify`.
async fn prove(tools: &Tools, standing: &Standing, state: &TrailState) -> Result<(), StoreError> {
    let gone = standing.checkpoint.map_or(0, |checkpoint| checkpoint.tip.seq);
    let tip = end_of(standing.head.as_ref());
    let after = gone.max(tip.seq.saturating_sub(u64::from(BATCH)));
    let mut records = tools.store.sealed_records(after, BATCH).await?;
    // What another process has sealed since is covered by a head of its own.
    records.retain(|one| one.link.is_some_and(|link| link.seq <= tip.seq));
    let Some(seq) = first_broken(after, &records, &tip) else { return Ok(()) };
    // Unless it went behind a checkpoint meanwhile.
    if tools.store.trail_state().await?.checkpoint == state.checkpoint {
        let message = format!("record {seq} of the audit trail is not what it was when it was sealed: `logoutd audit verify` says more");
        alarm(tools, "sealed records", message).await?;
    }
    Ok(())
}

fn end_of(head: Option<&SignedHead>) -> Tip {
    head.map_or_else(genesis, |head| head.tip)
}

async fn batch(tools: &Tools, records: &[TrailRecord], standing: &Standing) -> Result<Sealing, StoreError> {
    let Standing { signer, successor, head, .. } = standing;
    let after = end_of(head.as_ref());
    let (mut tip, mut linked): (Tip, Vec<(AuditId, Link)>) = (after, Vec::with_capacity(records.len()));
    for one in records {
        let link = link(&tip, one).map_err(failed)?;
        tip = Tip { seq: link.seq, chain: link.chain };
        linked.push((one.record.id.clone(), link));
    }
    let (at, kid) = (tools.store.now().await?, signer.kid().to_owned());
    let next = match successor {
        Successor::Waits(kid) => Some(kid.clone()),
        Successor::None | Successor::Foreign => None,
    };
    let before = Before::of(head.as_ref(), &HeadMark { at, kid: &kid });
    let jws = sign_head(&tip, &before, next.as_deref(), at, signer).map_err(failed)?;
    Ok(Sealing { after, records: linked, head: Head { tip, at, kid, jws }, next })
}

/// Lets one step's worth of what was kept long enough go: all that a head from before that time covers, once a checkpoint says so.
pub async fn forget(tools: &Tools) -> Result<Step, StoreError> {
    told(tools, forget_some(tools).await).await
}

async fn forget_some(tools: &Tools) -> Result<Step, StoreError> {
    let now = tools.store.now().await?;
    let Some((Standing { signer, checkpoint, .. }, _)) = stands(tools).await? else { return Ok(Step::Dry) };
    let gone = checkpoint.map_or(0, |checkpoint| checkpoint.tip.seq);
    if tools.store.purge_trail(gone).await? + tools.store.thin_heads(now.minus(THINNED_AFTER)).await? > 0 {
        return Ok(Step::More);
    }
    let before = now.minus(tools.keep.audit);
    let Some(head) = tools.store.head_before(before).await? else { return Ok(Step::Dry) };
    let own = own_keys(&tools.store.audit_keys().await?, &tools.sealing);
    // How old it is, and what it covers, is what was signed, and not what stands beside it.
    let head = match stored_head(&head, &own) {
        Ok(head) if head.at < before => head,
        Ok(_) => return Ok(Step::Dry),
        Err(_) => {
            let message = format!(
                "a head of the audit trail, over record {}, is not as this server signed it: nothing is forgotten behind it",
                head.tip.seq
            );
            return alarm(tools, "audit head", message).await.map(|()| Step::Dry);
        }
    };
    if head.tip.seq <= gone {
        return Ok(Step::Dry);
    }
    let jws = sign_checkpoint(&head, now, &signer).map_err(failed)?;
    tools.store.keep_checkpoint(Checkpoint { tip: head.tip, at: now, jws }).await?;
    Ok(Step::More)
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
