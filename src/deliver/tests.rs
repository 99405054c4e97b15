//! The courier over a real database and real connections.

use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::{Courier, Parts, Settings, StepReport};
use crate::egress::{Egress, EgressConfig, Mode};
use crate::lifecycle::{Stop, Tasks};
use crate::model::access::{Caller, Role};
use crate::model::attempt::{AttemptRecord, OutcomeClass};
use crate::model::audit::Act;
use crate::model::client::{ClientRecord, DeliverySettings, Network};
use crate::model::delivery::{DeliveryState, DeliveryView};
use crate::model::issuer::{IssuerRecord, SESSION_MAX_AGE_DEFAULT};
use crate::model::key::{KeyState, SigningAlg};
use crate::model::page::Page;
use crate::model::report::{ParticipantReport, Report, SessionReport};
use crate::model::session::{Device, SessionName};
use crate::model::trigger::{Reason, Target, Trigger};
use crate::model::{ClientId, EventId, Issuer, IssuerId, Sid, Subject, Timestamp};
use crate::plan::{effects, joining};
use crate::seams::{Clock, Entropy};
use crate::store::{AuditEntry, DeliveryFilter, Store, StoreSettings};
use crate::token::{Keyring, SealingKey, generate};

const SOON: Duration = Duration::from_secs(20);

/// A relying party: answers a status, once its gate lets the request through.
struct Party {
    client_id: ClientId,
    status: AtomicU16,
    gate: Semaphore,
    calls: AtomicUsize,
    tokens: Mutex<Vec<String>>,
}

const OPEN: usize = 1_000_000;

impl Party {
    fn new(client_id: &str, status: u16, permits: usize) -> Arc<Self> {
        Arc::new(Self {
            client_id: ClientId::parse(client_id).unwrap(),
            status: AtomicU16::new(status),
            gate: Semaphore::new(permits),
            calls: AtomicUsize::new(0),
            tokens: Mutex::default(),
        })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

async fn called(State(party): State<Arc<Party>>, body: String) -> StatusCode {
    party.tokens.lock().unwrap().push(body);
    party.calls.fetch_add(1, Ordering::SeqCst);
    party.gate.acquire().await.unwrap().forget();
    StatusCode::from_u16(party.status.load(Ordering::SeqCst)).unwrap()
}

/// A database with an issuer, its clients, and whatever drives them.
struct House {
    store: Store,
    clock: Clock,
    entropy: Entropy,
    sealing: Arc<SealingKey>,
    settings: Settings,
    doorbell: Arc<Notify>,
    parties: JoinSet<()>,
    _directory: tempfile::TempDir,
}

fn issuer() -> IssuerId {
    IssuerId::parse("main").unwrap()
}

fn audit() -> AuditEntry {
    let caller = Caller {
        identity: "test".into(),
        role: Role::Admin,
        issuer: None,
        client_id: None,
        may_mass_kill: true,
        remote: None,
        behalf: crate::model::access::Behalf::default(),
        token: crate::model::access::OwnToken::NONE,
    };
    AuditEntry { act: Act::IssuerCreated, caller, actor: None, issuer: Some(issuer()), event: None, detail: "{}".into() }
}

impl House {
    async fn new() -> Self {
        Self::with_keys(&[SigningAlg::Es256]).await
    }

    async fn with_keys(algs: &[SigningAlg]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("test.db").display());
        let settings = StoreSettings { url, max_connections: 4, statement_timeout: Duration::from_secs(5) };
        let (clock, entropy) = (Clock::system(), Entropy::os());
        let store = Store::open(&settings, clock.clone(), entropy.clone(), &TaskTracker::new()).await.unwrap();
        let sealing = Arc::new(SealingKey::generate(&entropy));
        let now = clock.now();
        let record = IssuerRecord {
            id: issuer(),
            issuer: Issuer::parse("https://op.example").unwrap(),
            signing_algs: algs.to_vec(),
            session_max_age: SESSION_MAX_AGE_DEFAULT,
            expiry: crate::model::issuer::Expiry::Absolute,
            network: Network::default(),
            source: crate::model::issuer::ProviderSource::NONE,
            upstream: crate::model::issuer::Upstream::DEFAULT,
            provider_logout: None,
            access_tokens: crate::model::issuer::AccessTokens::DEFAULT,
            revocation: None,
            subject_secrets: None,
            managed_by: crate::model::issuer::ManagedBy::Api,
            created_at: now,
            updated_at: now,
            version: 1,
        };
        let key = |alg: &SigningAlg| generate(*alg).unwrap().into_record(issuer(), KeyState::Active, now, &sealing, &entropy);
        let keys: Vec<_> = algs.iter().map(key).collect();
        store.create_issuer(&record, &keys, audit()).await.unwrap();
        let settings = Settings {
            in_flight_max: 16,
            timeout_max: Duration::from_secs(20),
            lease: Duration::from_mins(1),
            poll: Duration::from_millis(50),
            idle_poll: Duration::from_millis(100),
            token_lifetime: Duration::from_mins(2),
            host_rate_per_s: None,
        };
        let (doorbell, parties) = (Arc::new(Notify::new()), JoinSet::new());
        Self { store, clock, entropy, sealing, settings, doorbell, parties, _directory: directory }
    }

    fn courier(&self, tasks: &Tasks) -> Courier {
        let config = EgressConfig { mode: Mode::Development, ..EgressConfig::default() };
        Courier::new(Parts {
            store: self.store.clone(),
            egress: Arc::new(Egress::new(config).unwrap()),
            keyring: Arc::new(Keyring::default()),
            sealing: Arc::clone(&self.sealing),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            tasks: tasks.clone(),
            doorbell: Arc::clone(&self.doorbell),
            settled: watch::Sender::new(0),
            share: watch::channel(crate::plan::lane::Share::default()).1,
            pulse: watch::Sender::new(None),
            tracer: crate::observe::traces::Tracer::off(),
            settings: self.settings,
        })
    }

    async fn register(&mut self, party: &Arc<Party>, max_in_flight: u16) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/logout", socket.local_addr().unwrap());
        let router = Router::new().route("/logout", post(called)).with_state(Arc::clone(party));
        self.parties.spawn(async move { axum::serve(socket, router).await.unwrap() });
        let now = self.clock.now();
        let client = ClientRecord {
            issuer: issuer(),
            client_id: party.client_id.clone(),
            client_name: None,
            backchannel_logout_uri: Some(uri.parse().unwrap()),
            session_required: false,
            alg: SigningAlg::Es256,
            auth_method: None,
            secret_digest: None,
            secret_previous: None,
            jwks: None,
            jwks_uri: None,
            delivery: DeliverySettings { max_in_flight, ..DeliverySettings::DEFAULT },
            auth_signing_alg: None,
            introspection_alg: None,
            tokens: crate::model::token::TokenPolicy::DEFAULT,
            created_at: now,
            updated_at: now,
            suspended_at: None,
            managed_by: crate::model::issuer::ManagedBy::Api,
            deleted_at: None,
            version: 1,
        };
        self.store.put_client(&client, None, &[], audit()).await.unwrap();
    }

    /// A login of each of these subjects at one client.
    async fn sign_in(&self, client_id: &ClientId, subjects: &[&str]) {
        let issuer = self.store.issuer(&issuer()).await.unwrap().unwrap();
        let report = |sub: &&str| {
            let participant =
                ParticipantReport { client_id: client_id.clone(), sid: None, sub: None, joined_at: None, refresh_token: None };
            Report::Session(SessionReport {
                session: SessionName::Sid(Sid::parse(format!("{sub} at {client_id}")).unwrap()),
                sub: Subject::parse(*sub).unwrap(),
                started_at: None,
                expires_at: None,
                idle_expires_at: None,
                aliases: Vec::new(),
                device: Device::default(),
                participants: vec![participant],
            })
        };
        let reports = subjects.iter().map(report).collect();
        for reported in self.store.take_reports(&issuer, &Caller::itself(&issuer.id), reports, joining::RULES).await.unwrap().outcomes {
            reported.unwrap();
        }
    }

    /// Everybody logs out of one client; the deliveries are due at once.
    async fn log_out(&self, client_id: &ClientId) -> EventId {
        let trigger = Trigger {
            issuer: issuer(),
            target: Target::Client(client_id.clone()),
            except: crate::model::trigger::Except::default(),
            reason: Reason::Admin,
            reason_detail: None,
            occurred_at: None,
            revoke_offline_access: false,
            tell_provider: None,
            actor: None,
            correlation_id: None,
            note: None,
            caller: audit().caller,
            idempotency: None,
        };
        let reach = effects::reach(&trigger);
        let committed = self.store.commit(&trigger, &reach, "{}".into(), crate::store::Mode::Commit, effects::opening).await;
        committed.unwrap().receipt.id
    }

    async fn deliveries(&self, event: &EventId) -> Vec<DeliveryView> {
        let filter = DeliveryFilter { issuer: Some(issuer()), event: Some(event.clone()), ..DeliveryFilter::default() };
        self.store.deliveries(filter, Page::default()).await.unwrap().items
    }

    async fn attempts(&self, delivery: &DeliveryView) -> Vec<AttemptRecord> {
        self.store.delivery(&issuer(), &delivery.id).await.unwrap().unwrap().1
    }

    async fn count(&self, event: &EventId, state: DeliveryState) -> usize {
        self.deliveries(event).await.iter().filter(|delivery| delivery.state == state).count()
    }

    async fn once_settled(&self, event: &EventId, state: DeliveryState, count: usize) {
        until("the deliveries are settled", async || self.count(event, state).await == count).await;
    }

    async fn step(&self, courier: &Courier) -> StepReport {
        courier.step(self.clock.now()).await.unwrap()
    }
}

/// Waits until it holds, and fails if it never does.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn what_was_committed_is_delivered_once_and_its_slot_is_free_again() {
    let (mut house, tasks) = (House::new().await, Tasks::default());
    let wiki = Party::new("wiki", 200, OPEN);
    house.register(&wiki, 8).await;
    house.sign_in(&wiki.client_id, &["alice", "bob"]).await;
    let event = house.log_out(&wiki.client_id).await;
    let courier = house.courier(&tasks);

    assert_eq!(house.step(&courier).await, StepReport { ready: 1, claimed: 2 });
    house.once_settled(&event, DeliveryState::Delivered, 2).await;
    until("both slots are free", async || courier.in_flight() == 0).await;
    assert_eq!(house.step(&courier).await, StepReport::default());
    assert_eq!(wiki.calls(), 2);
    let attempts = house.attempts(house.deliveries(&event).await.first().unwrap()).await;
    assert!(matches!(attempts.as_slice(), [AttemptRecord { number: 1, status: Some(200), class: OutcomeClass::Delivered, .. }]));
}

#[tokio::test]
async fn a_client_that_hangs_uses_up_its_own_slots_alone() {
    let (mut house, tasks) = (House::new().await, Tasks::default());
    let (slow, quick) = (Party::new("slow", 200, 0), Party::new("quick", 200, OPEN));
    house.register(&slow, 2).await;
    house.register(&quick, 8).await;
    house.sign_in(&slow.client_id, &["a", "b", "c", "d", "e"]).await;
    house.sign_in(&quick.client_id, &["a", "b", "c"]).await;
    let hanging = house.log_out(&slow.client_id).await;
    let event = house.log_out(&quick.client_id).await;
    let courier = house.courier(&tasks);

    assert_eq!(house.step(&courier).await.claimed, 5);
    house.once_settled(&event, DeliveryState::Delivered, 3).await;
    assert_eq!(house.step(&courier).await.claimed, 0, "its lane is full");

    // Its slots ring when they become free, and the next of its deliveries get them.
    house.doorbell.notify_one();
    house.doorbell.notified().await;
    assert_eq!(house.step(&courier).await.claimed, 0);
    slow.gate.add_permits(1);
    tokio::time::timeout(SOON, house.doorbell.notified()).await.expect("the freed slot rings");
    assert_eq!(house.step(&courier).await.claimed, 1);
    slow.gate.add_permits(OPEN);
    until("the rest is claimed", async || {
        house.step(&courier).await;
        house.count(&hanging, DeliveryState::Delivered).await == 5
    })
    .await;
}

#[tokio::test]
async fn each_attempt_carries_a_token_of_its_own() {
    let (mut house, tasks) = (House::new().await, Tasks::default());
    let shop = Party::new("shop", 503, OPEN);
    house.register(&shop, 8).await;
    house.sign_in(&shop.client_id, &["alice"]).await;
    let event = house.log_out(&shop.client_id).await;
    let courier = house.courier(&tasks);

    assert_eq!(house.step(&courier).await.claimed, 1);
    until("the first outcome is recorded", async || house.deliveries(&event).await.iter().all(|one| one.attempts == 1)).await;
    assert_eq!(house.step(&courier).await.claimed, 0, "it is not due yet");
    shop.status.store(204, Ordering::SeqCst);
    house.clock.advance(Duration::from_secs(2));
    assert_eq!(house.step(&courier).await.claimed, 1);
    house.once_settled(&event, DeliveryState::Delivered, 1).await;

    let attempts = house.attempts(house.deliveries(&event).await.first().unwrap()).await;
    assert_eq!(attempts.iter().map(|one| (one.number, one.status)).collect::<Vec<_>>(), [(1, Some(503)), (2, Some(204))]);
    assert_ne!(attempts.first().unwrap().jti, attempts.last().unwrap().jti);
    let tokens = shop.tokens.lock().unwrap();
    assert_ne!(tokens.first(), tokens.last());
}

#[tokio::test]
async fn an_outcome_that_comes_after_its_lease_changes_nothing() {
    let (mut house, tasks) = (House::new().await, Tasks::default());
    let shop = Party::new("shop", 500, 0);
    house.register(&shop, 8).await;
    house.sign_in(&shop.client_id, &["alice"]).await;
    let event = house.log_out(&shop.client_id).await;
    let (late, other) = (house.courier(&tasks), house.courier(&tasks));

    assert_eq!(house.step(&late).await.claimed, 1);
    until("the first request is there", async || shop.calls() == 1).await;
    assert_eq!(house.step(&other).await.claimed, 0, "it is leased");
    house.clock.advance(house.settings.lease);
    assert_eq!(house.step(&other).await.claimed, 1, "its lease is over");
    until("the second request is there", async || shop.calls() == 2).await;

    // The gate lets them through in the order they came: the late one is answered 500, and then the other 200.
    shop.gate.add_permits(1);
    until("the late outcome is in", async || late.in_flight() == 0).await;
    let delivery = house.deliveries(&event).await.remove(0);
    assert_eq!((delivery.state, delivery.attempts), (DeliveryState::Pending, 0));
    assert!(matches!(house.attempts(&delivery).await.as_slice(), [AttemptRecord { lease_lost: true, status: Some(500), .. }]));
    shop.status.store(200, Ordering::SeqCst);
    shop.gate.add_permits(1);
    house.once_settled(&event, DeliveryState::Delivered, 1).await;
}

#[tokio::test]
async fn a_missing_key_is_our_fault_and_costs_the_client_nothing() {
    let (mut house, tasks) = (House::with_keys(&[SigningAlg::EdDsa]).await, Tasks::default());
    let wiki = Party::new("wiki", 200, OPEN);
    house.register(&wiki, 8).await;
    house.sign_in(&wiki.client_id, &["alice"]).await;
    let event = house.log_out(&wiki.client_id).await;
    let courier = house.courier(&tasks);

    house.step(&courier).await;
    until("the fault is recorded", async || courier.in_flight() == 0).await;
    let delivery = house.deliveries(&event).await.remove(0);
    assert_eq!((delivery.state, delivery.attempts, wiki.calls()), (DeliveryState::Pending, 0, 0));
    assert!(matches!(house.attempts(&delivery).await.as_slice(), [AttemptRecord { class: OutcomeClass::Ours, jti: None, .. }]));
}

#[tokio::test]
async fn a_soft_stop_finishes_what_is_in_flight_and_takes_nothing_new() {
    let (mut house, tasks) = (House::new().await, Tasks::new(Stop::new()));
    let slow = Party::new("slow", 200, 0);
    house.register(&slow, 1).await;
    house.sign_in(&slow.client_id, &["alice", "bob"]).await;
    let event = house.log_out(&slow.client_id).await;
    drop(tasks.spawn("courier", house.courier(&tasks).run()));
    until("the first request is there", async || slow.calls() == 1).await;

    tasks.stop().request();
    slow.gate.add_permits(OPEN);
    tokio::time::timeout(SOON, tasks.wait()).await.expect("everything ends");
    let states = [DeliveryState::Delivered, DeliveryState::Pending];
    assert_eq!([house.count(&event, states[0]).await, house.count(&event, states[1]).await], [1, 1]);
    assert_eq!(slow.calls(), 1);
}

#[tokio::test]
async fn what_was_claimed_but_not_begun_at_a_stop_is_due_again_at_once() {
    let (mut house, tasks) = (House::new().await, Tasks::new(Stop::new()));
    let wiki = Party::new("wiki", 200, OPEN);
    house.register(&wiki, 8).await;
    house.sign_in(&wiki.client_id, &["alice"]).await;
    let event = house.log_out(&wiki.client_id).await;
    let courier = house.courier(&tasks);
    tasks.stop().request();
    assert_eq!(house.step(&courier).await.claimed, 1);
    drop(courier);
    tokio::time::timeout(SOON, tasks.wait()).await.expect("everything ends");
    assert_eq!(wiki.calls(), 0);

    let after_restart = house.courier(&Tasks::default());
    assert_eq!(house.step(&after_restart).await.claimed, 1, "its lease was given back");
    house.once_settled(&event, DeliveryState::Delivered, 1).await;
}

#[tokio::test]
async fn a_hard_stop_ends_although_a_client_hangs_and_loses_nothing() {
    let (mut house, tasks) = (House::new().await, Tasks::new(Stop::new()));
    let slow = Party::new("slow", 200, 0);
    house.register(&slow, 8).await;
    house.sign_in(&slow.client_id, &["alice"]).await;
    let event = house.log_out(&slow.client_id).await;
    drop(tasks.spawn("courier", house.courier(&tasks).run()));
    until("the request is there", async || slow.calls() == 1).await;
    tasks.stop().force();
    tokio::time::timeout(SOON, tasks.wait()).await.expect("everything ends");

    slow.gate.add_permits(OPEN);
    house.clock.advance(house.settings.lease);
    let after_restart = house.courier(&Tasks::default());
    assert_eq!(house.step(&after_restart).await.claimed, 1, "the lease ran out");
    house.once_settled(&event, DeliveryState::Delivered, 1).await;
}

#[tokio::test]
async fn a_running_courier_wakes_by_the_doorbell_and_for_a_retry() {
    let (mut house, tasks) = (House::new().await, Tasks::new(Stop::new()));
    house.settings = Settings { poll: Duration::from_mins(1), idle_poll: Duration::from_mins(1), ..house.settings };
    let shop = Party::new("shop", 503, OPEN);
    house.register(&shop, 8).await;
    house.sign_in(&shop.client_id, &["alice"]).await;
    let pulse = watch::Sender::new(None::<Timestamp>);
    let mut courier = house.courier(&tasks);
    courier.pulse = pulse.clone();
    drop(tasks.spawn("courier", courier.run()));
    tokio::time::timeout(SOON, pulse.subscribe().wait_for(Option::is_some)).await.unwrap().unwrap();

    let event = house.log_out(&shop.client_id).await;
    house.doorbell.notify_one();
    until("the first request is there", async || shop.calls() == 1).await;
    shop.status.store(200, Ordering::SeqCst);
    house.once_settled(&event, DeliveryState::Delivered, 1).await;
    tasks.stop().request();
    tokio::time::timeout(SOON, tasks.wait()).await.expect("everything ends");
}
