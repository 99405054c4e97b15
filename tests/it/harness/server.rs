//! A whole logoutd on a test's own database and an ephemeral port, and the first registrations most tests begin with.

use std::sync::Arc;
use std::time::Duration;

use logoutd::app::{self, Server as Inner};
use logoutd::config::{Arguments, Config, Mode};
use logoutd::egress::{Egress, EgressConfig, FixedNames, Names};
use logoutd::issuers::AddressBook;
use logoutd::lifecycle::{Signals, Tasks};
use logoutd::model::key::KeyPolicy;
use logoutd::plan::lane::Share;
use logoutd::seams::{Clock, Entropy};
use logoutd::store::{Keep, Store};
use logoutd::token::SealingKey;
use logoutd::upkeep::Tools;
use serde_json::{Value, json};

use super::DEADLINE;
use super::api::Api;
use super::database::Database;
use super::party::Party;

/// The bootstrap token of every server here.
pub(crate) const ADMIN_TOKEN: &str = "admin-token-of-the-tests-0123456789abcdef";
/// Who the provider says it is. Nothing listens there.
pub(crate) const ISSUER: &str = "https://id.example.com/realms/Main/";
/// A server is started again over what another one wrote, so all have one key.
const SEALING_KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA";

/// What a day is to what is kept.
pub(crate) const DAY: Duration = Duration::from_hours(24);
/// How long the chores of tests keep things.
pub(crate) const KEEP: Keep = Keep {
    idempotency: DAY,
    settled: Duration::from_secs(30 * 24 * 3600),
    sessions: Duration::from_secs(30 * 24 * 3600),
    audit: Duration::from_secs(400 * 24 * 3600),
};

/// What chores work with where there is no server.
pub(crate) fn bare_tools(store: &Store, clock: &Clock, tasks: &Tasks) -> Tools {
    let entropy = Entropy::os();
    Tools {
        store: store.clone(),
        clock: clock.clone(),
        doorbell: Default::default(),
        settled: tokio::sync::watch::Sender::new(0),
        keep: KEEP,
        book: Arc::new(AddressBook::new(Arc::new(Egress::new(EgressConfig::default()).unwrap()))),
        sealing: Arc::new(SealingKey::generate(&entropy)),
        keys: KeyPolicy { rotate_after: None, cache: DAY, hints: DAY, token_lifetime: DAY },
        listener_until: tokio::sync::watch::channel(None).1,
        tasks: tasks.clone(),
        entropy,
    }
}

/// A server that runs until it is stopped or dropped.
pub(crate) struct Server {
    inner: Option<Inner>,
    pub(crate) base: String,
    /// Its clock: moving it moves the server's time, also as its database sees it.
    pub(crate) clock: Clock,
}

impl Server {
    /// In dev mode: `http` and loopback relying parties.
    pub(crate) async fn start(database: &Database) -> Self {
        Self::start_with(database, Mode::Dev, &[]).await
    }

    /// With settings by their variables, on a clock of its own.
    pub(crate) async fn start_with(database: &Database, mode: Mode, variables: &[(&str, &str)]) -> Self {
        Self::try_start(database, mode, variables, Clock::system()).await.unwrap()
    }

    /// With everything said; a start may be refused.
    pub(crate) async fn try_start(database: &Database, mode: Mode, variables: &[(&str, &str)], clock: Clock) -> Result<Self, app::Error> {
        let inner = Inner::start(config(database, mode, variables), clock.clone(), Entropy::os()).await?;
        Ok(Self::of(inner, clock))
    }

    /// Where every name it looks up is in a table.
    pub(crate) async fn start_with_names(database: &Database, mode: Mode, variables: &[(&str, &str)], names: &FixedNames) -> Self {
        let (config, clock) = (config(database, mode, variables), Clock::system());
        let inner = Inner::start_with_names(config, clock.clone(), Entropy::os(), Names::Fixed(names.clone())).await.unwrap();
        Self::of(inner, clock)
    }

    fn of(inner: Inner, clock: Clock) -> Self {
        let base = format!("http://{}", inner.address());
        Self { inner: Some(inner), base, clock }
    }

    /// A caller with the bootstrap token.
    pub(crate) fn admin(&self) -> Api {
        Api::new(&self.base).with_token(ADMIN_TOKEN)
    }

    /// A caller without any token.
    pub(crate) fn nobody(&self) -> Api {
        Api::new(&self.base)
    }

    /// Its vault, to look at what no route tells.
    pub(crate) fn store(&self) -> logoutd::store::Store {
        self.inner.as_ref().unwrap().state().store.clone()
    }

    /// What its chores work with.
    pub(crate) fn tools(&self) -> Tools {
        let state = self.inner.as_ref().unwrap().state();
        Tools {
            store: state.store.clone(),
            clock: state.clock.clone(),
            entropy: state.entropy.clone(),
            doorbell: state.doorbell.clone(),
            settled: state.settled.clone(),
            keep: KEEP,
            book: state.book.clone(),
            sealing: state.sealing.clone(),
            keys: state.settings.keys,
            listener_until: tokio::sync::watch::channel(None).1,
            tasks: state.tasks.clone(),
        }
    }

    /// Its part in what all servers on its database do.
    pub(crate) fn share(&self) -> Share {
        *self.inner.as_ref().unwrap().share().borrow()
    }

    /// Moves its time ahead.
    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Stops it as a first signal does, and waits for its end.
    pub(crate) async fn stop(mut self) {
        let inner = self.inner.take().unwrap();
        inner.stop().request();
        tokio::time::timeout(DEADLINE, inner.see_out(Signals::Unheard)).await.expect("a stop ends").unwrap();
    }
}

/// The configuration of a test's server.
fn config(database: &Database, mode: Mode, variables: &[(&str, &str)]) -> Config {
    let arguments =
        Arguments { database_url: Some(database.url.clone()), listen: Some("127.0.0.1:0".to_owned()), mode, ..Arguments::default() };
    // A courier that looks often lets a test that moves the clock see what is due at once.
    let own = [
        ("LOGOUTD_ADMIN_TOKEN", ADMIN_TOKEN),
        ("LOGOUTD_SEALING_KEY", SEALING_KEY),
        ("LOGOUTD_DELIVERY__POLL_MS", "20"),
        ("LOGOUTD_DELIVERY__IDLE_POLL_MS", "20"),
        ("LOGOUTD_DATABASE__MAX_CONNECTIONS", "4"),
        // What a start finds is sealed, and the rest when a test says so: two looks at the trail are alike.
        ("LOGOUTD_SCHEDULE__AUDIT", "0 0 0 1 1 *"),
    ];
    let kept = own.iter().filter(|(name, _)| !variables.iter().any(|(given, _)| given == name));
    let variables = kept.chain(variables).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(&arguments, variables).unwrap()
}

impl Drop for Server {
    /// Its tasks end with the test's runtime; nothing waits for them.
    fn drop(&mut self) {
        if let Some(inner) = &self.inner {
            inner.stop().request();
            inner.stop().force();
        }
    }
}

/// A server with the issuer `main`, and its provider.
pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) admin: Api,
    /// A `provider` of `main` that may end everybody's sessions of a client.
    pub(crate) provider: Api,
}

impl Stage {
    /// In dev mode, with the issuer `main` registered for RS256.
    pub(crate) async fn set(database: &Database) -> Self {
        Self::on(Server::start(database).await, &["ES256"]).await
    }

    /// The same on a given server, with algorithms.
    pub(crate) async fn on(server: Server, algs: &[&str]) -> Self {
        let admin = server.admin();
        admin.post("/v1/issuers", json!({"id": "main", "issuer": ISSUER, "signing_algs": algs})).await.expect(201);
        let provider = admin.mint(json!({"role": "provider", "issuer": "main", "may_mass_kill": true})).await;
        Self { server, admin, provider }
    }

    /// A healthy relying party, registered with ES256 (a quick signature) and whatever `more` says.
    pub(crate) async fn party(&self, client_id: &str, more: Value) -> Party {
        let party = Party::open(&self.server.base, "main", ISSUER, client_id).await;
        self.register(client_id, &party.uri(), more).await;
        party
    }

    /// A client with this URI.
    pub(crate) async fn register(&self, client_id: &str, uri: &str, more: Value) {
        let mut body = json!({"backchannel_logout_uri": uri, "id_token_signed_response_alg": "ES256"});
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        self.admin.put(&format!("/v1/issuers/main/clients/{client_id}"), body).await.expect(201);
    }

    /// A login at clients, answered with the session.
    pub(crate) async fn login(&self, sid: &str, sub: &str, clients: &[&str]) -> Value {
        let participants: Vec<_> = clients.iter().map(|client_id| json!({"client_id": client_id})).collect();
        let body = json!({"sub": sub, "participants": participants});
        self.provider.put(&format!("/v1/issuers/main/sessions/{sid}"), body).await.expect(201)
    }

    /// A logout with the reason `user_logout`, answered with its receipt.
    pub(crate) async fn logout(&self, target: Value) -> Value {
        let answer = self.provider.post("/v1/issuers/main/logouts", json!({"target": target, "reason": "user_logout"})).await;
        assert!(answer.is_success(), "{answer:?}");
        answer.body
    }

    /// The receipt as it stands.
    pub(crate) async fn receipt(&self, id: &Value) -> Value {
        self.provider.get(&format!("/v1/issuers/main/logouts/{}", id.as_str().unwrap())).await.expect(200)
    }

    /// The receipt once it is settled.
    pub(crate) async fn settled(&self, id: &Value) -> Value {
        super::until("the logout settles", || async {
            let receipt = self.receipt(id).await;
            (receipt["state"] == "settled").then_some(receipt)
        })
        .await
    }
}
