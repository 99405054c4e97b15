//! Looks at every certificate that was registered and at the one the listener shows, and speaks up before one expires.
//!
//! Unlike the other chores it is done by every process, since a process's metrics are its own, and it changes nothing. How near an end was when it was
//! last spoken of is kept in memory: each threshold is told once by each process, and again after a restart, until somebody acts.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;

use super::Tools;
use crate::egress::first_expiry;
use crate::lifecycle::Stop;
use crate::model::alarm::{AlarmKind, Raised};
use crate::model::certificate::{CertificateKind, Certificates, Holder};
use crate::model::{ClientId, IssuerId, Timestamp};
use crate::observe::{CertificateNear, CertificatesSeen};
use crate::plan::certificate::{Nearness, nearness};
use crate::store::StoreError;

/// How often it looks.
const INTERVAL: Duration = Duration::from_mins(10);

/// How many registrations are read at once.
const PAGE: u16 = 200;

/// What was spoken of: of which certificate, by its end, and how near that was.
#[derive(Debug, Default)]
pub struct Told(HashMap<(Option<Holder>, CertificateKind), (Timestamp, Nearness)>);

/// Looks until the stop.
pub(super) async fn watch(tools: Tools, stop: Stop) {
    let (mut told, mut listener) = (Told::default(), tools.listener_until.clone());
    while !stop.is_requested() {
        if let Err(error) = step(&tools, &mut told).await {
            error.tell("certificates");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = another(&mut listener) => {}
            () = stop.requested() => return,
        }
    }
}

/// Waits until the listener shows another one.
async fn another(listener: &mut watch::Receiver<Option<Timestamp>>) {
    if listener.changed().await.is_err() {
        // It never will.
        std::future::pending().await
    }
}

/// Looks once at all of them.
pub async fn step(tools: &Tools, told: &mut Told) -> Result<(), StoreError> {
    let now = tools.store.now().await?;
    let mut round = Round { now, told, seen: HashMap::new(), first: HashMap::new(), raised: Vec::new() };
    let listener_until = *tools.listener_until.borrow();
    if let Some(expires_at) = listener_until {
        round.note(None, CertificateKind::Listener, expires_at);
    }
    round.look(tools.store.issuers_certificates().await?);
    let mut after: Option<(IssuerId, ClientId)> = None;
    loop {
        let page = tools.store.clients_certificates(after.as_ref(), PAGE).await?;
        let last = page.last().map(|last| last.holder.clone());
        let more = page.len() == usize::from(PAGE);
        round.look(page);
        match last {
            Some(Holder { issuer, client_id: Some(client_id) }) if more => after = Some((issuer, client_id)),
            Some(_) | None => break,
        }
    }
    let raised = round.end();
    tools.store.raise_alarms(raised).await.map(|_| ())
}

/// One look at all of them.
struct Round<'t> {
    now: Timestamp,
    told: &'t mut Told,
    seen: HashMap<(Option<Holder>, CertificateKind), (Timestamp, Nearness)>,
    first: HashMap<CertificateKind, Timestamp>,
    raised: Vec<Raised>,
}

impl Round<'_> {
    fn look(&mut self, page: Vec<Certificates>) {
        for Certificates { holder, shown_until, ca_pem } in page {
            let trusted_until = ca_pem.as_deref().and_then(first_expiry);
            let ends = [(CertificateKind::Client, shown_until), (CertificateKind::Authority, trusted_until)];
            for (kind, expires_at) in ends {
                if let Some(expires_at) = expires_at {
                    self.note(Some(&holder), kind, expires_at);
                }
            }
        }
    }

    fn note(&mut self, holder: Option<&Holder>, kind: CertificateKind, expires_at: Timestamp) {
        self.first.entry(kind).and_modify(|first| *first = expires_at.min(*first)).or_insert(expires_at);
        let Some(near) = nearness(expires_at, self.now) else { return };
        let key = (holder.cloned(), kind);
        if self.told.0.get(&key).is_none_or(|(of, before)| *of != expires_at || *before < near) {
            CertificateNear { holder, kind, near: near.as_str(), over: near == Nearness::Past, expires_at }.emit();
            self.raised.push(raised(holder, kind, expires_at));
        }
        self.seen.insert(key, (expires_at, near));
    }

    /// What is gone is forgotten; what somebody must hear of is handed over.
    fn end(self) -> Vec<Raised> {
        self.told.0 = self.seen;
        for kind in CertificateKind::ALL {
            CertificatesSeen { kind: *kind, first: self.first.get(kind).copied(), now: self.now }.emit();
        }
        self.raised
    }
}

/// A certificate without a holder is the listener's own.
fn raised(holder: Option<&Holder>, kind: CertificateKind, expires_at: Timestamp) -> Raised {
    let whose = match holder {
        None => "(listener)",
        Some(Holder { client_id: Some(client_id), .. }) => client_id.as_str(),
        Some(Holder { client_id: None, .. }) => "(provider)",
    };
    let message = format!("its certificate is good until {expires_at}");
    Raised::once(AlarmKind::CertificateNear, holder.map(|holder| &holder.issuer), &format!("{whose}: {kind}"), message)
}
