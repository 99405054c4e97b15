//! The loop: look, claim, send; then wait until there is a reason to look again.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, watch};

use super::lanes::{Lanes, Sight, Survey, Wanted};
use super::provider;
use super::request::{self, Claimed, Ended};
use super::settler::{self, Finished};
use super::signer::Signer;
use super::slots::{Slots, Snapshot, Use, Waiting};
use super::{Parts, Settings, Tools, Watch};
use crate::model::Timestamp;
use crate::model::delivery::{Class, DeliveryKind, Lane, Leased, PriorClaim};
use crate::model::lane::Deal;
use crate::observe::LeasesReclaimed;
use crate::observe::traces::{Scope, Span, SpanKind, within};
use crate::plan::lane::Share;
use crate::plan::lane::breaker::probe_wait;
use crate::plan::lane::fair::{Dealt, Demand, Purse, deal};
use crate::store::{Probe, Queue, StoreError};

/// By how much one probe must be over before the next.
const PROBE_MARGIN: Duration = Duration::from_secs(1);
/// How long to wait before looking again when the database could not be asked.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Brings each delivery to an outcome.
pub struct Courier {
    tools: Arc<Tools>,
    slots: Slots,
    finished: mpsc::Sender<Finished>,
    share: watch::Receiver<Share>,
    pub(super) pulse: watch::Sender<Option<Timestamp>>,
    turn: AtomicUsize,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Lanes that had something due.
    pub ready: usize,
    /// Deliveries claimed and begun.
    pub claimed: usize,
}

/// What one step did, and when there is something to do that it could not.
struct Looked {
    report: StepReport,
    next: Option<Timestamp>,
}

/// What became of the probes that were due.
#[derive(Default)]
struct Probed {
    begun: usize,
    /// There was no place for all of them.
    short: bool,
}

impl Courier {
    /// A courier that has not looked yet. Its settler runs from here on; must be called within a runtime.
    pub fn new(parts: Parts) -> Self {
        let Parts { store, egress, keyring, sealing, clock, entropy, tasks, doorbell, settled, share, pulse, tracer, settings } = parts;
        let signer = Signer::new(store.clone(), keyring, Arc::clone(&sealing), tasks.clone());
        let held = provider::Tokens::default();
        let slots = Slots::new(settings.in_flight_max, Arc::clone(&doorbell));
        let lanes = Lanes::default();
        let tools = Arc::new(Tools {
            store,
            egress,
            signer,
            sealing,
            tokens: held,
            clock,
            entropy,
            tasks,
            doorbell,
            settled,
            tracer,
            lanes,
            settings,
        });
        // As many places as slots: whoever has a slot finds a place and never waits for one.
        let (finished, coming) = mpsc::channel(usize::from(settings.in_flight_max).max(1));
        drop(tools.tasks.spawn("settler", settler::run(Arc::clone(&tools), coming)));
        Self { tools, slots, finished, share, pulse, turn: AtomicUsize::new(0) }
    }

    /// How many attempts are running or waiting to be recorded.
    pub fn in_flight(&self) -> usize {
        usize::from(self.slots.total())
    }

    /// Looks once: claims what there are slots for and begins its attempts. They end on their own.
    pub async fn step(&self, now: Timestamp) -> Result<StepReport, StoreError> {
        Ok(self.look_once(now).await?.report)
    }

    async fn look_once(&self, now: Timestamp) -> Result<Looked, StoreError> {
        // Where the look fails, interest stays told: whatever becomes free is a reason to look again.
        let (looked, waiting) = self.look(now).await?;
        self.slots.looked(waiting);
        self.pulse.send_replace(Some(self.tools.clock.now()));
        Ok(looked)
    }

    async fn look(&self, now: Timestamp) -> Result<(Looked, Waiting), StoreError> {
        let busy = self.slots.look();
        if busy.in_flight.total() >= self.slots.max() {
            return Ok((Looked { report: StepReport::default(), next: Some(now) }, Waiting::ForAny));
        }
        let queues = self.tools.store.queues().await?;
        let survey = self.survey(&queues, &busy, now).await?;
        let purse = Purse { total: self.slots.max(), in_flight: busy.in_flight, passes: survey.passes };
        let dealt = deal(purse, &survey.hosts, &survey.demands, self.turn.fetch_add(1, Ordering::Relaxed));
        let claimed = if dealt.deals.is_empty() { Vec::new() } else { self.claim(&dealt.deals, now).await? };
        self.tools.lanes.begun(&claimed);
        let ran_out = claimed.iter().filter(|leased| leased.prior == PriorClaim::RanOut).count();
        LeasesReclaimed { count: ran_out as u64 }.emit();
        let waiting = waiting(&survey.demands, &dealt, &claimed);
        let mut report = StepReport { ready: survey.ready, claimed: claimed.len() };
        self.begin(claimed, false, now).await?;
        let probed = self.probe(&survey.probes, now).await?;
        report.claimed += probed.begun;
        // What is pending and waits for no time is looked for from time to time.
        let next = survey.next.or_else(|| (!queues.is_empty()).then_some(now));
        Ok((Looked { report, next }, if probed.short { Waiting::ForAny } else { waiting }))
    }

    /// What may go out now, by what the database says of the lanes and by what this process remembers of them.
    async fn survey(&self, queues: &[Queue], busy: &Snapshot, now: Timestamp) -> Result<Survey, StoreError> {
        if queues.is_empty() {
            return Ok(Survey::default());
        }
        let records = self.tools.store.lane_records().await?;
        let asked = self.tools.lanes.unknown(queues, &records, now);
        let settings = if asked.is_empty() { Vec::new() } else { self.tools.store.lane_settings(&asked).await? };
        let (share, host_rate_per_s) = (*self.share.borrow(), self.tools.settings.host_rate_per_s);
        Ok(self.tools.lanes.survey(Sight { queues, records: &records, settings, asked, busy, share, host_rate_per_s, now }))
    }

    async fn claim(&self, deals: &[Deal], now: Timestamp) -> Result<Vec<Leased>, StoreError> {
        self.tools.store.claim_due(deals, now, now.plus(self.tools.settings.lease), self.lease_token()).await
    }

    fn lease_token(&self) -> i64 {
        i64::from_ne_bytes(self.tools.entropy.number().to_ne_bytes())
    }

    /// Takes the probes that are due, as far as there are places for them.
    async fn probe(&self, wanted: &[Wanted], now: Timestamp) -> Result<Probed, StoreError> {
        let (mut probed, max) = (Probed::default(), self.slots.max());
        for Wanted { of, from, probes } in wanted {
            if !self.slots.in_flight().admits_probe(max) {
                probed.short = true;
                break;
            }
            // No shorter than a probe takes: there is one at a time.
            let takes = self.tools.settings.timeout_max + PROBE_MARGIN;
            let next_at = now.plus(probe_wait(probes.saturating_add(1), takes, self.tools.entropy.unit()));
            let probe = Probe {
                of: of.clone(),
                from: from.clone(),
                probes: *probes,
                now,
                next_at,
                lease_until: now.plus(self.tools.settings.lease),
                lease_token: self.lease_token(),
            };
            if let Some(leased) = self.tools.store.take_probe(probe).await? {
                probed.begun += 1;
                self.begin(vec![leased], true, now).await?;
            }
        }
        Ok(probed)
    }

    /// Begins an attempt for each claimed delivery, or gives all of them back.
    async fn begin(&self, claimed: Vec<Leased>, probe: bool, now: Timestamp) -> Result<(), StoreError> {
        if claimed.is_empty() {
            return Ok(());
        }
        let facts = match self.tools.store.attempt_facts(&claimed).await {
            Ok(facts) => facts,
            Err(error) => {
                settler::give_back(&self.tools, claimed.iter()).await;
                return Err(error);
            }
        };
        let watch = Watch::set(self.tools.clock.clone(), now);
        for (leased, facts) in claimed.into_iter().zip(facts) {
            self.begin_one(Arc::new(Claimed { leased, facts }), probe, watch.clone());
        }
        Ok(())
    }

    fn begin_one(&self, claimed: Arc<Claimed>, probe: bool, watch: Watch) {
        let uri = match claimed.leased.kind {
            DeliveryKind::Provider => claimed.facts.issuer.provider_logout.as_ref().map(|logout| logout.url()),
            DeliveryKind::Revocation => claimed.facts.issuer.revocation.as_ref().and_then(|endpoint| endpoint.url.as_ref()),
            DeliveryKind::LogoutToken | DeliveryKind::Relay => {
                claimed.facts.client.as_ref().and_then(|client| client.backchannel_logout_uri.as_ref())
            }
        };
        let Leased { lane, class, retry, .. } = &claimed.leased;
        let slot = self.slots.take(Use { lane: lane.clone(), host: uri.and_then(Lane::behind), class: *class, retry: *retry, probe });
        let mut span = self.tools.tracer.go_on(SpanKind::Client, "attempt", claimed.facts.trace.clone());
        if let Some(host) = uri.and_then(url::Url::host_str) {
            span.note("server.address", host.to_owned());
            span.note("server.port", i64::from(uri.and_then(url::Url::port_or_known_default).unwrap_or_default()));
        }
        let scope = Scope { tracer: self.tools.tracer.clone(), trace: span.context(), ..Scope::default() };
        let (tools, finished) = (Arc::clone(&self.tools), self.finished.clone());
        let attempt = async move {
            let attempt = AssertUnwindSafe(within(scope, request::attempt(&tools, Arc::clone(&claimed), &watch))).catch_unwind();
            let ended = attempt.await.unwrap_or_else(|_| {
                tracing::error!(delivery = %claimed.leased.id, "an attempt panicked");
                Ended::Settled(Box::new(request::died(&tools, &claimed.leased, watch.now())))
            });
            tell_span(span, &claimed.leased, &ended);
            // The settler outlives every attempt; if it does not, the lease runs out.
            drop(finished.send(Finished { claimed, ended, at: watch.now(), slot }).await);
        };
        drop(self.tools.tasks.spawn("attempt", attempt));
    }

    /// Works until the stop: looks until there is nothing to claim, then waits for the doorbell, for the next due time or for the stop.
    pub async fn run(self) {
        let stop = self.tools.tasks.stop().clone();
        while !stop.is_requested() {
            let wait = match self.until_dry().await {
                Ok(wait) => wait,
                Err(error) => {
                    error.tell("courier");
                    PAUSE_AFTER_FAILURE
                }
            };
            tokio::select! {
                // A ring is kept until it is heard, so one that comes while looking is not missed.
                () = self.tools.doorbell.notified() => {}
                () = tokio::time::sleep(wait) => {}
                () = stop.requested() => {}
            }
        }
    }

    /// Steps until nothing is claimed, and says how long there is nothing to do.
    async fn until_dry(&self) -> Result<Duration, StoreError> {
        while !self.tools.tasks.stop().is_requested() {
            let now = self.tools.store.now().await?;
            let looked = self.look_once(now).await?;
            if looked.report.claimed == 0 {
                return Ok(patience(&self.tools.settings, now, looked.next));
            }
        }
        Ok(Duration::ZERO)
    }
}

/// The span of what was sent; where nothing was, there is nothing to tell.
fn tell_span(mut span: Span, leased: &Leased, ended: &Ended) {
    let Ended::Settled(settlement) = ended else { return };
    let Some(attempt) = &settlement.attempt else { return };
    span.note("http.request.method", "POST");
    span.note("http.request.resend_count", i64::from(attempt.number.saturating_sub(1)));
    span.note("logoutd.delivery.id", leased.id.to_string());
    span.note("logoutd.delivery.kind", leased.kind.as_str());
    span.note("logoutd.logout.id", leased.event.to_string());
    span.note("logoutd.client_id", leased.client_id.to_string());
    span.note("logoutd.outcome", attempt.class.as_str());
    if let Some(status) = attempt.status {
        span.note("http.response.status_code", i64::from(status));
    }
    match (attempt.failure, attempt.status) {
        (Some(failure), _) => span.fail(failure.as_str()),
        (None, Some(300..)) => span.fail(attempt.class.as_str()),
        (None, _) => {}
    }
    span.end();
}

/// How long nothing is to be done: until something may begin, at most until the next poll. What might begin already waits for a slot, and a slot rings.
fn patience(settings: &Settings, now: Timestamp, next_due: Option<Timestamp>) -> Duration {
    match next_due {
        None => settings.idle_poll,
        Some(due) if due <= now => settings.poll,
        Some(due) => due.since(now).min(settings.poll),
    }
}

/// Whose slots are waited for: those of lanes that have more due than they were dealt, or anybody's if no more could be dealt.
fn waiting(demands: &[Demand], dealt: &Dealt, claimed: &[Leased]) -> Waiting {
    if dealt.short {
        return Waiting::ForAny;
    }
    let mut left: BTreeMap<&Lane, BTreeMap<(Class, bool), u16>> = BTreeMap::new();
    for deal in &dealt.deals {
        left.entry(&deal.lane).or_default().insert((deal.class, deal.retry), deal.slots);
    }
    for leased in claimed {
        let of_queue = left.get_mut(&leased.lane).and_then(|left| left.get_mut(&(leased.class, leased.retry)));
        of_queue.into_iter().for_each(|left| *left = left.saturating_sub(1));
    }
    // A queue that gave less than was dealt to it is dry; one that was dealt nothing is not.
    let is_dry = |demand: &Demand| {
        let left = left.get(&demand.lane);
        let kinds = Class::ALL.iter().flat_map(|class| [(*class, false), (*class, true)]);
        let mut due = kinds.filter(|(class, retry)| *demand.due.of(*class).of(*retry));
        due.all(|kind| left.and_then(|left| left.get(&kind)).is_some_and(|left| *left > 0))
    };
    Waiting::For(demands.iter().filter(|demand| !is_dry(demand)).map(|demand| demand.lane.clone()).collect::<BTreeSet<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClientId, IssuerId};
    use crate::plan::lane::Turns;
    use crate::plan::lane::fair::{Busy, Due, Passes};

    fn lane(client: &str) -> Lane {
        Lane::of(&IssuerId::parse("main").unwrap(), &ClientId::parse(client).unwrap())
    }

    fn demand(client: &str) -> Demand {
        let due = Due { interactive: Turns { first: true, retry: false }, ..Due::default() };
        Demand { lane: lane(client), room: 8, host: None, busy: Busy::default(), passes: Passes::default(), due }
    }

    fn dealt(client: &str, slots: u16, short: bool) -> Dealt {
        Dealt { deals: vec![Deal { lane: lane(client), class: Class::Interactive, retry: false, slots }], short }
    }

    #[test]
    fn the_next_look_is_never_later_than_the_next_due_time_nor_than_the_poll() {
        let settings = Settings {
            in_flight_max: 8,
            timeout_max: Duration::from_secs(10),
            lease: Duration::from_secs(30),
            poll: Duration::from_millis(500),
            idle_poll: Duration::from_secs(5),
            token_lifetime: Duration::from_mins(2),
            host_rate_per_s: None,
        };
        let now = Timestamp::from_seconds(1_790_000_000);
        let wait = |due: Option<i64>| patience(&settings, now, due.map(|ms| Timestamp::from_millis(now.millis() + ms))).as_millis();
        assert_eq!([wait(None), wait(Some(-1)), wait(Some(0)), wait(Some(3)), wait(Some(9000))], [5000, 500, 500, 3, 500]);
    }

    #[test]
    fn every_lane_is_waited_for_when_all_slots_were_dealt() {
        assert_eq!(waiting(&[demand("a")], &dealt("a", 4, true), &[]), Waiting::ForAny);
    }

    #[test]
    fn a_lane_that_could_not_fill_its_share_is_dry_and_one_without_room_is_not() {
        let waiting = waiting(&[demand("dry"), demand("full")], &dealt("dry", 3, false), &[]);
        assert_eq!(waiting, Waiting::For(BTreeSet::from([lane("full")])));
    }
}
