//! What this process remembers of each receiver, and what a look at the queues makes of it.
//!
//! Nothing here is true by itself: limits begin anew, tokens fill up, streaks are counted again after a restart. Whether a lane is open, parked or paused
//! is read from the database at every look.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::slots::Snapshot;
use crate::model::Timestamp;
use crate::model::attempt::{Failure, OutcomeClass};
use crate::model::delivery::{Lane, Leased};
use crate::model::lane::{LaneChange, LaneRecord};
use crate::plan::lane::breaker::{Breaker, Evidence, Standing, Witnesses, probe_wait};
use crate::plan::lane::fair::{Demand, Due, Passes};
use crate::plan::lane::rate::{Bucket, Rate};
use crate::plan::lane::window::Window;
use crate::plan::lane::{Share, hash, part};
use crate::store::{LaneNote, LaneSettings, Queue};

/// How long what a registration says is believed.
const SETTINGS_LIVE: Duration = Duration::from_secs(1);
/// How long a lane is remembered in which nothing waits.
const REMEMBERED: Duration = Duration::from_hours(1);
/// How many are remembered however long ago.
const REMEMBERED_MIN: usize = 1024;
/// A host that comes back bears this many at once before it is asked without limit.
const HOST_RAMP: u16 = 256;

/// One for each courier; shared with its settler.
#[derive(Clone, Debug, Default)]
pub(super) struct Lanes(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    lanes: BTreeMap<Lane, Known>,
    hosts: BTreeMap<Lane, Receiver>,
    passes: Passes,
}

/// A client's lane.
#[derive(Debug, Default)]
struct Known {
    receiver: Receiver,
    passes: Passes,
    asked: Option<Asked>,
    /// What this process may have in flight.
    part: u16,
}

/// What its registration asks for, as it was read.
#[derive(Clone, Debug)]
struct Asked {
    at: Timestamp,
    max_in_flight: u16,
    rate_per_s: Option<u16>,
    host: Option<Lane>,
}

/// A lane or a host.
#[derive(Debug, Default)]
struct Receiver {
    standing: Standing,
    breaker: Breaker,
    window: Window,
    bucket: Option<Bucket>,
    closed_at: Option<Timestamp>,
    seen_at: Timestamp,
}

impl Receiver {
    /// Takes over what the database says.
    fn see(&mut self, record: Option<&LaneRecord>, now: Timestamp) {
        let open = record.is_some_and(|record| record.probe_at.is_some());
        self.standing = Standing {
            open_since: open.then(|| self.standing.open_since.unwrap_or(now)),
            failing: record.is_some_and(|record| record.failing_since.is_some()),
            parked: record.is_some_and(|record| record.parked_at.is_some()),
        };
        let closed_at = record.and_then(|record| record.closed_at);
        if closed_at > self.closed_at {
            (self.closed_at, self.window) = (closed_at, Window::begin());
            // Whoever found it back may have been another process, or an operator who asked.
            self.breaker.begin_anew();
        }
        self.seen_at = now;
    }

    /// How many may begin by the rate, and when the next may if none may now.
    fn tokens(&mut self, rate: Option<Rate>, now: Timestamp) -> (u16, Option<Timestamp>) {
        let Some(rate) = rate else {
            self.bucket = None;
            return (u16::MAX, None);
        };
        let bucket = self.bucket.get_or_insert_with(|| Bucket::fresh(rate, now));
        match bucket.room(rate, now) {
            0 => (0, Some(bucket.next(rate))),
            room => (room, None),
        }
    }

    fn take(&mut self) {
        self.bucket.iter_mut().for_each(|bucket| bucket.take(1));
    }
}

/// What a look sees.
pub(super) struct Sight<'a> {
    pub(super) queues: &'a [Queue],
    pub(super) records: &'a [LaneRecord],
    pub(super) settings: Vec<LaneSettings>,
    /// The lanes whose settings were asked for.
    pub(super) asked: Vec<Lane>,
    pub(super) busy: &'a Snapshot,
    pub(super) share: Share,
    pub(super) host_rate_per_s: Option<u16>,
    pub(super) now: Timestamp,
}

/// What can be begun now.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// By whom.
    pub(super) demands: Vec<Demand>,
    /// How many more each host may begin.
    pub(super) hosts: Vec<u16>,
    /// How much each class was served.
    pub(super) passes: Passes,
    /// Who is to be probed.
    pub(super) probes: Vec<Wanted>,
    /// How many lanes have something due that may go out.
    pub(super) ready: usize,
    /// When something can be begun that cannot be begun now.
    pub(super) next: Option<Timestamp>,
}

/// A probe that is due.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) of: Lane,
    pub(super) from: Lane,
    pub(super) probes: u32,
}

impl Survey {
    fn wait_until(&mut self, at: Timestamp) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

/// The lanes behind one open host.
#[derive(Debug, Default)]
struct Behind {
    /// Open by themselves too.
    open: Vec<Lane>,
    closed: Vec<Lane>,
}

impl Lanes {
    /// The lanes whose settings a look needs and does not have: all that have something due, and those whose receiver is to be probed.
    pub(super) fn unknown(&self, queues: &[Queue], records: &[LaneRecord], now: Timestamp) -> Vec<Lane> {
        let is_host = |record: &LaneRecord| record.lane.is_host() && record.probe_at.is_some();
        let all = records.iter().any(is_host);
        let book = self.lock();
        let is_known = |lane: &Lane| {
            let asked = book.lanes.get(lane).and_then(|known| known.asked.as_ref());
            asked.is_some_and(|asked| now >= asked.at && now.since(asked.at) < SETTINGS_LIVE)
        };
        let of_lane = queues.chunk_by(|one, next| one.lane == next.lane);
        let wanted = of_lane.filter(|queues| all || queues.iter().any(|queue| queue.due_at <= now)).filter_map(<[Queue]>::first);
        wanted.map(|queue| &queue.lane).filter(|lane| !is_known(lane)).cloned().collect()
    }

    /// Decides what may go out now, and when the next may.
    pub(super) fn survey(&self, sight: Sight<'_>) -> Survey {
        let mut book = self.lock();
        book.learn(&sight);
        let book = &mut *book;
        let records: BTreeMap<&Lane, &LaneRecord> = sight.records.iter().map(|record| (&record.lane, record)).collect();
        let (mut survey, mut hosts, mut behind) = (Survey { passes: book.passes, ..Survey::default() }, BTreeMap::new(), BTreeMap::new());
        let mut due_in_all = Due::default();
        for queues in sight.queues.chunk_by(|one, next| one.lane == next.lane) {
            let Some(Queue { lane, .. }) = queues.first() else { continue };
            let known = book.lanes.entry(lane.clone()).or_default();
            let record = records.get(lane).copied();
            known.receiver.see(record, sight.now);
            if record.is_some_and(|record| record.paused_at.is_some()) {
                continue;
            }
            let host = known.asked.as_ref().and_then(|asked| asked.host.clone());
            if let Some(host) = &host {
                let open = records.get(host).is_some_and(|record| record.probe_at.is_some());
                book.hosts.entry(host.clone()).or_default().see(records.get(host).copied(), sight.now);
                if open {
                    let behind: &mut Behind = behind.entry(host.clone()).or_default();
                    let lanes = if known.receiver.standing.open_since.is_some() { &mut behind.open } else { &mut behind.closed };
                    lanes.push(lane.clone());
                    continue;
                }
            }
            if let Some((record, probe_at)) = record.and_then(|record| Some((record, record.probe_at?))) {
                if probe_at <= sight.now {
                    survey.probes.push(Wanted { of: lane.clone(), from: lane.clone(), probes: record.probes });
                }
                survey.wait_until(probe_at);
                continue;
            }
            let mut due = Due::default();
            for queue in queues {
                if queue.due_at <= sight.now {
                    *due.of_mut(queue.class).of_mut(queue.retry) = true;
                    *due_in_all.of_mut(queue.class).of_mut(queue.retry) = true;
                } else {
                    survey.wait_until(queue.due_at);
                }
            }
            if due != Due::default() {
                demand(&mut survey, &mut hosts, (lane, known, &mut book.hosts), due, &sight);
            }
        }
        for (host, behind) in behind {
            let Some((record, probe_at)) = records.get(&host).and_then(|record| Some((record, record.probe_at?))) else { continue };
            survey.wait_until(probe_at);
            // Whoever is not away by itself is the better witness; each probe asks another client.
            let lanes = if behind.closed.is_empty() { behind.open } else { behind.closed };
            let turn = usize::try_from(record.probes).unwrap_or(0).checked_rem(lanes.len()).unwrap_or(0);
            if let (true, Some(from)) = (probe_at <= sight.now, lanes.get(turn)) {
                survey.probes.push(Wanted { of: host, from: from.clone(), probes: record.probes });
            }
        }
        book.passes.forgo(&due_in_all);
        survey.passes = book.passes;
        survey
    }

    /// These began.
    pub(super) fn begun(&self, leased: &[Leased]) {
        let mut book = self.lock();
        let book = &mut *book;
        for one in leased {
            book.passes.serve(one.class, one.retry, 1);
            let Some(known) = book.lanes.get_mut(&one.lane) else { continue };
            known.passes.serve(one.class, one.retry, 1);
            known.receiver.take();
            let host = known.asked.as_ref().and_then(|asked| asked.host.as_ref());
            host.and_then(|host| book.hosts.get_mut(host)).into_iter().for_each(Receiver::take);
        }
    }

    /// What follows from an attempt for its lane and its host: what is to be noted, and whether it was open before. `unit` is the chance that spreads the
    /// waits.
    pub(super) fn judge(&self, ended: &Ended<'_>, unit: f64) -> Vec<(LaneNote, bool)> {
        let mut book = self.lock();
        let book = &mut *book;
        let (began, witness) = (if ended.probe { ended.at } else { ended.began }, hash(ended.lane.as_str()));
        let mut notes = Vec::new();
        let known = book.lanes.entry(ended.lane.clone()).or_default();
        known.receiver.seen_at = ended.at;
        let (evidence, part) = (Evidence::of(ended.class), known.part.max(1));
        match (evidence, ended.failure) {
            (Evidence::Taken, _) => known.receiver.window.succeeded(part),
            (_, Some(Failure::Timeout)) => known.receiver.window.timed_out(part),
            (Evidence::Alive | Evidence::Gone | Evidence::Away | Evidence::Unasked | Evidence::Nothing, _) => {}
        }
        let receiver = &mut known.receiver;
        if let Some(change) = receiver.breaker.judge(evidence, receiver.standing, (began, ended.at), witness, Witnesses::One) {
            notes.push(note(ended.lane.clone(), change, receiver, ended.at, unit, vec![ended.lane.clone()]));
        }
        if let Some(host) = ended.host {
            let receiver = book.hosts.entry(host.clone()).or_default();
            receiver.seen_at = ended.at;
            if evidence == Evidence::Taken {
                receiver.window.succeeded(HOST_RAMP);
            }
            let change =
                receiver.breaker.judge(Evidence::of_host(ended.class), receiver.standing, (began, ended.at), witness, Witnesses::Two);
            // A host that answers is not failing, whatever it answers.
            if let Some(change) = change.filter(|change| *change != LaneChange::Failing) {
                let is_behind = |known: &Known| known.asked.as_ref().and_then(|asked| asked.host.as_ref()) == Some(host);
                let waiting = book.lanes.iter().filter(|(_, known)| is_behind(known) && known.receiver.standing.open_since.is_none());
                notes.push(note(host.clone(), change, receiver, ended.at, unit, waiting.map(|(lane, _)| lane.clone()).collect()));
            }
        }
        notes
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that is over, as its lane sees it.
pub(super) struct Ended<'a> {
    pub(super) lane: &'a Lane,
    pub(super) host: Option<&'a Lane>,
    pub(super) class: OutcomeClass,
    pub(super) failure: Option<Failure>,
    pub(super) began: Timestamp,
    pub(super) at: Timestamp,
    /// It was sent to find out.
    pub(super) probe: bool,
}

fn note(lane: Lane, change: LaneChange, receiver: &mut Receiver, at: Timestamp, unit: f64, hasten: Vec<Lane>) -> (LaneNote, bool) {
    let was_open = receiver.standing.open_since.is_some();
    receiver.standing = receiver.standing.after(change, at);
    (LaneNote { lane, change, probe_at: at.plus(probe_wait(0, Duration::ZERO, unit)), hasten }, was_open)
}

/// Adds what one lane may begin, as far as its own limits and its host's go.
fn demand(
    survey: &mut Survey,
    positions: &mut BTreeMap<Lane, usize>,
    (lane, known, hosts): (&Lane, &mut Known, &mut BTreeMap<Lane, Receiver>),
    due: Due,
    sight: &Sight<'_>,
) {
    survey.ready += 1;
    known.passes.forgo(&due);
    let (max, rate, host) = match &known.asked {
        // A lane without a client is looked at once at a time: its deliveries settle as cancelled.
        None => (1, None, None),
        Some(asked) => (asked.max_in_flight, asked.rate_per_s, asked.host.clone()),
    };
    known.part = part(max, lane.as_str(), sight.share);
    let rate = rate.map(|rate| Rate::of(rate, lane.as_str(), sight.share));
    let (tokens, next) = known.receiver.tokens(rate, sight.now);
    let busy = sight.busy.lanes.get(lane).copied().unwrap_or_default();
    let in_flight = [busy.compromise, busy.interactive, busy.bulk].iter().fold(0_u16, |sum, turns| sum + turns.first + turns.retry);
    let room = known.receiver.window.room(known.part, in_flight);
    let mut host_next = None;
    let host = host.and_then(|host| {
        let receiver = hosts.get_mut(&host)?;
        let rate = sight.host_rate_per_s.map(|rate| Rate::of(rate, host.as_str(), sight.share));
        let (tokens, next) = receiver.tokens(rate, sight.now);
        host_next = next;
        Some(*positions.entry(host).or_insert_with_key(|host| {
            let in_flight = sight.busy.hosts.get(host).copied().unwrap_or(0);
            let ramp = if receiver.window.is_whole() { u16::MAX } else { receiver.window.room(HOST_RAMP, in_flight) };
            survey.hosts.push(ramp.min(tokens));
            survey.hosts.len() - 1
        }))
    });
    survey.wait_until(next.max(host_next).unwrap_or(sight.now));
    survey.demands.push(Demand { lane: lane.clone(), room: room.min(tokens), host, busy, passes: known.passes, due });
}

impl Book {
    /// Takes over what registrations say, and forgets who was not seen for long.
    fn learn(&mut self, sight: &Sight<'_>) {
        for lane in &sight.asked {
            self.lanes.entry(lane.clone()).or_default().asked = None;
        }
        for settings in &sight.settings {
            let LaneSettings { lane, max_in_flight, rate_per_s, uri } = settings;
            let host = uri.as_ref().and_then(Lane::behind);
            let asked = Asked { at: sight.now, max_in_flight: *max_in_flight, rate_per_s: *rate_per_s, host };
            self.lanes.entry(lane.clone()).or_default().asked = Some(asked);
        }
        let remembered = |seen_at: Timestamp| sight.now.since(seen_at) < REMEMBERED;
        if self.lanes.len() > REMEMBERED_MIN {
            self.lanes.retain(|_, known| remembered(known.receiver.seen_at));
        }
        if self.hosts.len() > REMEMBERED_MIN {
            self.hosts.retain(|_, receiver| remembered(receiver.seen_at));
        }
    }
}
