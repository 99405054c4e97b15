//! Where metrics go: a Prometheus recorder of the process, rendered on request.
//!
//! Counters belong to a process, so several servers in one process (as tests start them) share them.

use std::sync::{OnceLock, PoisonError, RwLock};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::events::{KeyTrouble, StoreFault};
use crate::model::alarm::AlarmKind;
use crate::model::attempt::OutcomeClass;
use crate::model::delivery::{DeliveryState, SettledReason};

/// The way to read the metrics of this process.
#[derive(Clone)]
pub struct Handle(PrometheusHandle);

impl Handle {
    /// Everything measured so far, in Prometheus' text format.
    pub fn render(&self) -> String {
        super::process::measure();
        let _whole = WHOLE.read().unwrap_or_else(PoisonError::into_inner);
        self.0.render()
    }

    /// Folds what histograms have collected; asked for every few seconds, memory stays bounded when nobody scrapes.
    pub fn tidy(&self) {
        self.0.run_upkeep();
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("metrics::Handle")
    }
}

/// Held while gauges are set that are to be read together, and while they are read.
static WHOLE: RwLock<()> = RwLock::new(());

/// Sets gauges of which nobody reads some old and some new.
pub(super) fn together(set: impl FnOnce()) {
    let _whole = WHOLE.write().unwrap_or_else(PoisonError::into_inner);
    set();
}

/// Makes the recorder of this process, the first time, and returns the way to read it, every time.
pub fn install() -> Handle {
    static HANDLE: OnceLock<Handle> = OnceLock::new();
    HANDLE.get_or_init(make).clone()
}

fn make() -> Handle {
    let recorder = with_buckets().build_recorder();
    let handle = Handle(recorder.handle());
    if metrics::set_global_recorder(recorder).is_ok() {
        describe();
        begin();
    } else {
        tracing::warn!("another metrics recorder was there first; /metrics will be empty");
    }
    handle
}

/// Seconds within one machine: a commit, a request, an attempt.
const SHORT_S: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Seconds until somebody was told: from a heartbeat to the horizon.
const LONG_S: [f64; 14] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 43_200.0, 259_200.0];
/// Jobs in one commit.
const SIZES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

pub(super) fn with_buckets() -> PrometheusBuilder {
    let buckets = [
        (Matcher::Suffix("_duration_seconds".to_owned()), &SHORT_S[..]),
        (Matcher::Suffix("_age_seconds".to_owned()), &LONG_S[..]),
        (Matcher::Suffix("_size".to_owned()), &SIZES[..]),
    ];
    buckets.into_iter().fold(PrometheusBuilder::new(), |builder, (matcher, bounds)| {
        builder.set_buckets_for_metric(matcher, bounds).expect("no list of buckets is empty")
    })
}

pub(super) const ATTEMPTS_REPEATED: &str = "logoutd_attempts_repeated_total";
pub(super) const LEASES_RECLAIMED: &str = "logoutd_leases_reclaimed_total";
pub(super) const FORGOTTEN: &str = "logoutd_deliveries_forgotten";
pub(super) const DATABASE_INFO: &str = "logoutd_database_info";
pub(super) const PINNED_PENDING: &str = "logoutd_pinned_client_pending";
pub(super) const PINNED_OLDEST: &str = "logoutd_pinned_client_oldest_pending_seconds";
pub(super) const PINNED_OPEN: &str = "logoutd_pinned_client_breaker_open";
pub(super) const SPANS_DROPPED: &str = "logoutd_spans_dropped_total";
pub(super) const ALARMS: &str = "logoutd_alarms";
pub(super) const ALARMS_TOLD: &str = "logoutd_alarms_told_total";
pub(super) const CLOCK_SKEW: &str = "logoutd_clock_skew_seconds";
pub(super) const START_TIME: &str = "process_start_time_seconds";
pub(super) const RESIDENT_MEMORY: &str = "process_resident_memory_bytes";
pub(super) const OPEN_FDS: &str = "process_open_fds";
pub(super) const LOGOUTS: &str = "logoutd_logouts_total";
pub(super) const SESSIONS_ENDED: &str = "logoutd_sessions_ended_total";
pub(super) const WORK_PAGES: &str = "logoutd_work_pages_total";
pub(super) const DELIVERIES_PLANNED: &str = "logoutd_deliveries_planned_total";
pub(super) const DELIVERIES_SETTLED: &str = "logoutd_deliveries_settled_total";
pub(super) const SETTLED_AGE: &str = "logoutd_delivery_settled_age_seconds";
pub(super) const FIRST_ATTEMPT_AGE: &str = "logoutd_delivery_first_attempt_age_seconds";
pub(super) const ATTEMPTS: &str = "logoutd_attempts_total";
pub(super) const ATTEMPT_DURATION: &str = "logoutd_attempt_duration_seconds";
pub(super) const LOGOUT_TOKENS_RECEIVED: &str = "logoutd_logout_tokens_received_total";
pub(super) const ACCESS_TOKENS_READ: &str = "logoutd_access_tokens_read_total";
pub(super) const REQUESTS_CHECKED: &str = "logoutd_requests_checked_total";
pub(super) const TOKEN_EVENTS: &str = "logoutd_token_events_total";
pub(super) const LEASES_LOST: &str = "logoutd_leases_lost_total";
pub(super) const COMMIT_DURATION: &str = "logoutd_commit_duration_seconds";
pub(super) const COMMIT_GROUP_SIZE: &str = "logoutd_commit_group_size";
pub(super) const LANES_OPENED: &str = "logoutd_lanes_opened_total";
pub(super) const LANES_CLOSED: &str = "logoutd_lanes_closed_total";
pub(super) const LANES_PARKED: &str = "logoutd_lanes_parked_total";
pub(super) const LANES: &str = "logoutd_lanes";
pub(super) const HORIZONS_NEAR: &str = "logoutd_horizons_near_total";
pub(super) const REQUESTS: &str = "logoutd_requests_total";
pub(super) const REQUEST_DURATION: &str = "logoutd_request_duration_seconds";
pub(super) const REQUESTS_FAILED: &str = "logoutd_requests_failed_total";
pub(super) const STORE_FAILURES: &str = "logoutd_store_failures_total";
pub(super) const AUTHENTICATION_FAILURES: &str = "logoutd_authentication_failures_total";
pub(super) const GAPS_OPEN: &str = "logoutd_gaps_open";
pub(super) const INFO: &str = "logoutd_info";
pub(super) const KEY_ALARMS: &str = "logoutd_key_alarms_total";
pub(super) const ENQUEUED: &str = "logoutd_deliveries_enqueued";
pub(super) const DELIVERIES: &str = "logoutd_deliveries";
pub(super) const UNACCOUNTED: &str = "logoutd_deliveries_unaccounted";
pub(super) const OLDEST_PENDING: &str = "logoutd_delivery_oldest_pending_seconds";
pub(super) const CERTIFICATE_EXPIRES: &str = "logoutd_certificate_expires_seconds";
pub(super) const CERTIFICATES_NEAR: &str = "logoutd_certificates_near_total";
pub(super) const AUDIT_HEAD_SEQ: &str = "logoutd_audit_head_seq";
pub(super) const AUDIT_HEAD_AGE: &str = "logoutd_audit_head_age_seconds";
pub(super) const AUDIT_UNSEALED: &str = "logoutd_audit_unsealed";
pub(super) const AUDIT_UNSEALED_FOR: &str = "logoutd_audit_unsealed_seconds";

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!(LOGOUTS, "Logouts committed, by reason and class.");
    describe_counter!(SESSIONS_ENDED, "Sessions ended by committed logouts.");
    describe_counter!(KEY_ALARMS, "Times keys were found not to be where relying parties need them, by trouble.");
    describe_counter!(WORK_PAGES, "Pages of works done, by what they do.");
    describe_counter!(DELIVERIES_PLANNED, "Deliveries written by committed logouts, works, ends by age and late joiners.");
    describe_counter!(DELIVERIES_SETTLED, "Deliveries settled, by state and reason.");
    describe_histogram!(SETTLED_AGE, "Seconds from a delivery's commit to its settlement, by state.");
    describe_histogram!(FIRST_ATTEMPT_AGE, "Seconds from a delivery's commit to the end of its first attempt.");
    describe_counter!(ATTEMPTS, "Attempts made, by the class of their outcome.");
    describe_histogram!(ATTEMPT_DURATION, "Seconds one attempt took, by the class of its outcome.");
    describe_counter!(ACCESS_TOKENS_READ, "Access tokens not known by their digest, by what was learnt of them and why they were refused.");
    describe_counter!(REQUESTS_CHECKED, "Requests that gateways asked about, by profile, by what was answered and why they were refused.");
    describe_counter!(LOGOUT_TOKENS_RECEIVED, "Logout tokens of providers, by what became of them and why they were refused.");
    describe_counter!(TOKEN_EVENTS, "What was noticed about tokens, such as the reuse of a replaced one, by kind.");
    describe_counter!(LEASES_LOST, "Outcomes that came after their lease was over.");
    describe_histogram!(COMMIT_DURATION, "Seconds one commit took, waiting for the disk included.");
    describe_histogram!(COMMIT_GROUP_SIZE, "Jobs in one commit.");
    describe_counter!(LANES_OPENED, "Lanes and hosts found away.");
    describe_counter!(LANES_CLOSED, "Lanes and hosts found back.");
    describe_counter!(LANES_PARKED, "Lanes parked: a day of failures, or a 410.");
    describe_gauge!(LANES, "Lanes and hosts that are open, parked or paused.");
    describe_counter!(HORIZONS_NEAR, "Lanes whose oldest delivery passed a share of its horizon, by percent.");
    describe_counter!(REQUESTS, "Requests answered, by route, method and status.");
    describe_histogram!(REQUEST_DURATION, "Seconds one request took, by route.");
    describe_counter!(REQUESTS_FAILED, "Requests answered with a 5xx that is our fault.");
    describe_counter!(STORE_FAILURES, "Statements or commits that failed, by kind.");
    describe_counter!(AUTHENTICATION_FAILURES, "Requests whose caller could not be told, by reason.");
    describe_gauge!(GAPS_OPEN, "Gaps of restored databases in which nobody knows what happened, and which nobody has closed yet.");
    describe_gauge!(INFO, "1, with the version of this server and of its database.");
    describe_gauge!(ENQUEUED, "Deliveries ever written, by the database's account: the sum of all states and of what was forgotten.");
    describe_gauge!(FORGOTTEN, "Deliveries that were settled, kept long enough and removed, by the database's account.");
    describe_gauge!(DELIVERIES, "Deliveries in the database, by state.");
    describe_gauge!(UNACCOUNTED, "Deliveries that were written, were not forgotten and are in no state: lost ones. Always 0.");
    describe_counter!(
        ATTEMPTS_REPEATED,
        "Attempts that are made again although they may have been heard: they were sent, and no answer came."
    );
    describe_counter!(LEASES_RECLAIMED, "Deliveries claimed again because the lease of an earlier claim ran out.");
    describe_gauge!(DATABASE_INFO, "1, with the engine, its version, and the settings a commit's durability hangs on.");
    describe_gauge!(PINNED_PENDING, "Deliveries that wait for a pinned client, those in flight included.");
    describe_gauge!(PINNED_OLDEST, "Age in seconds of the oldest delivery that waits for a pinned client; 0 when none does.");
    describe_gauge!(PINNED_OPEN, "1 while nothing but probes goes to a pinned client.");
    describe_counter!(SPANS_DROPPED, "Spans that no collector was told, by why.");
    describe_gauge!(ALARMS, "Alarms that are open, by kind.");
    describe_counter!(ALARMS_TOLD, "Tries to tell somebody of an alarm, by outcome.");
    describe_gauge!(
        CLOCK_SKEW,
        "Seconds by which the clocks of relying parties and providers are ahead of this server's; 0 while too few are known."
    );
    describe_gauge!(START_TIME, "When this process started, in seconds since 1970.");
    describe_gauge!(RESIDENT_MEMORY, "Resident memory of this process, in octets.");
    describe_gauge!(OPEN_FDS, "File descriptors this process has open.");
    describe_gauge!(OLDEST_PENDING, "Age in seconds of the oldest delivery that is not settled; 0 when all are.");
    describe_gauge!(
        CERTIFICATE_EXPIRES,
        "Seconds until the first registered certificate expires, by kind; negative when it has, infinite without one."
    );
    describe_gauge!(AUDIT_HEAD_SEQ, "The number of the last audit record that a signed head covers.");
    describe_gauge!(AUDIT_HEAD_AGE, "Seconds since the last head over the audit trail was signed; infinite without one.");
    describe_gauge!(AUDIT_UNSEALED, "Audit records that no signed head covers yet.");
    describe_gauge!(AUDIT_UNSEALED_FOR, "Seconds for which the oldest audit record that no signed head covers has waited; 0 without one.");
    describe_counter!(CERTIFICATES_NEAR, "Registered certificates found to be within 30, 7 or 1 days of their end, or past it.");
    super::doors::describe();
}

/// Where a failure of the database is dealt with: the chores by their names, and who tells of one himself.
const STORE_OPERATIONS: [&str; 24] = [
    "alarms",
    "audit",
    "audit_retention",
    "audit_trail",
    "beat",
    "census",
    "certificates",
    "clock",
    "courier",
    "expiry",
    "follow",
    "horizon",
    "keys",
    "lanes",
    "leave",
    "listen",
    "note_lanes",
    "raise_alarms",
    "release",
    "retention",
    "saw_api_token",
    "settle",
    "tell",
    "works",
];

/// What rules and dashboards look at is there from the start: a counter that appears with its first increment has no increase to see.
fn begin() {
    use metrics::{counter, gauge};
    let counters = [
        LANES_OPENED,
        LANES_CLOSED,
        LANES_PARKED,
        LEASES_LOST,
        LEASES_RECLAIMED,
        ATTEMPTS_REPEATED,
        REQUESTS_FAILED,
        DELIVERIES_PLANNED,
        SESSIONS_ENDED,
    ];
    counters.into_iter().for_each(|name| counter!(name).absolute(0));
    let labelled: [(&'static str, &'static str, &[&'static str]); 7] = [
        (KEY_ALARMS, "trouble", &KeyTrouble::ALL.map(KeyTrouble::as_str)),
        (HORIZONS_NEAR, "percent", &["50", "70", "90", "100"]),
        (SPANS_DROPPED, "why", &["queue", "collector"]),
        (ALARMS_TOLD, "outcome", &["told", "failed"]),
        (AUTHENTICATION_FAILURES, "why", &["unknown", "throttled"]),
        (TOKEN_EVENTS, "kind", &["reuse"]),
        (WORK_PAGES, "kind", &["expand", "replay", "cancel"]),
    ];
    for (name, label, values) in labelled {
        values.iter().for_each(|value| counter!(name, label => *value).absolute(0));
    }
    for (operation, fault) in STORE_OPERATIONS.into_iter().flat_map(|operation| StoreFault::ALL.map(|fault| (operation, fault))) {
        counter!(STORE_FAILURES, "operation" => operation, "kind" => fault.as_str()).absolute(0);
    }
    for class in OutcomeClass::ALL {
        counter!(ATTEMPTS, "class" => class.as_str()).absolute(0);
    }
    for (state, reason) in SettledReason::ALL.iter().filter_map(|reason| Some((given_up(*reason)?, reason))) {
        counter!(DELIVERIES_SETTLED, "state" => state.as_str(), "reason" => reason.as_str()).absolute(0);
    }
    for kind in AlarmKind::ALL {
        gauge!(ALARMS, "kind" => kind.as_str()).set(0.0);
    }
    for state in DeliveryState::ALL {
        gauge!(DELIVERIES, "state" => state.as_str()).set(0.0);
    }
    [ENQUEUED, FORGOTTEN, UNACCOUNTED, OLDEST_PENDING, CLOCK_SKEW].into_iter().for_each(|name| gauge!(name).set(0.0));
}

/// The state of a delivery that was given up for this reason; none where it was not.
const fn given_up(reason: SettledReason) -> Option<DeliveryState> {
    match reason {
        SettledReason::Refused
        | SettledReason::ConfigFault
        | SettledReason::Redirected
        | SettledReason::Gone
        | SettledReason::Blocked
        | SettledReason::KeyNotPublished => Some(DeliveryState::Rejected),
        SettledReason::Horizon => Some(DeliveryState::Expired),
        SettledReason::ClientNotRegistered | SettledReason::NoUri | SettledReason::NoSid | SettledReason::NoSub | SettledReason::Unfit => {
            Some(DeliveryState::Unreachable)
        }
        SettledReason::Accepted
        | SettledReason::AcceptedOddly
        | SettledReason::NewerLogin
        | SettledReason::Undone
        | SettledReason::ClientDeleted
        | SettledReason::Operator
        | SettledReason::TokenGone => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorder_is_made_once_and_every_handle_reads_it() {
        let (first, second) = (install(), install());
        metrics::counter!(LEASES_LOST).increment(1);
        for text in [first.render(), second.render()] {
            assert!(text.contains("# HELP logoutd_leases_lost_total Outcomes"), "{text}");
            assert!(text.lines().any(|line| line.starts_with("logoutd_leases_lost_total ")), "{text}");
        }
    }
}
