//! The chore that ends sessions by their age.

use super::{Step, Tools};
use crate::model::delivery::Class;
use crate::model::event::Receipt;
use crate::model::issuer::{Expiry, IssuerRecord};
use crate::model::page::{PAGE_ITEMS_MAX, Page};
use crate::observe::LogoutCommitted;
use crate::plan::expiry::opening;
use crate::store::StoreError;

/// Ends a page of sessions at each issuer whose sessions end by their age.
pub async fn step(tools: &Tools) -> Result<Step, StoreError> {
    let (mut step, mut page) = (Step::Dry, Page { limit: PAGE_ITEMS_MAX, after: None });
    loop {
        let issuers = tools.store.issuers(page).await?;
        for issuer in issuers.items.iter().filter(|issuer| issuer.expiry != Expiry::None) {
            if end_page(tools, issuer).await? == Step::More {
                step = Step::More;
            }
        }
        match issuers.next {
            None => return Ok(step),
            after @ Some(_) => page = Page { limit: PAGE_ITEMS_MAX, after },
        }
    }
}

async fn end_page(tools: &Tools, issuer: &IssuerRecord) -> Result<Step, StoreError> {
    let overdue = tools.store.overdue(issuer).await?;
    if overdue.is_empty() {
        return Ok(Step::Dry);
    }
    // A page of which nothing was left was somebody else's: who made it goes on.
    let Some(receipt) = tools.store.expire(issuer, overdue, opening).await? else { return Ok(Step::Dry) };
    tell(&receipt);
    tools.doorbell.notify_one();
    Ok(Step::More)
}

fn tell(receipt: &Receipt) {
    let Receipt { id, issuer, reason, sessions_ended, counts, .. } = receipt;
    LogoutCommitted { event: id, issuer, reason: *reason, class: Class::Bulk, sessions: *sessions_ended, deliveries: counts.total() }
        .emit();
}
