//! Where logoutd connects to: public addresses, what the deployment excepts, and nothing else, however an address is spelled.
//!
//! What connects is heard by a tripwire, not by the guard's own word.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use logoutd::config::Mode;
use logoutd::egress::FixedNames;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::Party;
use crate::harness::process::Process;
use crate::harness::server::{ISSUER, Server, Stage};
use crate::harness::until;

/// Listens on loopback, counts who connects, and says nothing.
struct Tripwire {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _listener: JoinSet<()>,
}

impl Tripwire {
    async fn lay() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, connections) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&connections);
        let mut listener = JoinSet::new();
        listener.spawn(async move {
            loop {
                drop(socket.accept().await.unwrap());
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { address, connections, _listener: listener }
    }

    fn felt(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn uri_at(&self, host: &str) -> String {
        format!("https://{host}:{}/logout", self.address.port())
    }
}

/// Every spelling of an address nobody may be told at.
const FORBIDDEN: [&str; 44] = [
    "127.0.0.1",
    "127.1",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "127%2e0%2e0%2e1",
    "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
    "\u{2460}\u{2461}\u{2466}.0.0.1",
    "0",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "255.255.255.255",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "100.100.100.200",
    "168.63.129.16",
    "[::]",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:169.254.169.254]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[fec0::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[ff02::1]",
    "[2001:db8::1]",
];

/// Names of this very host, and names that only look like another's.
const FORBIDDEN_NAMES: [&str; 6] =
    ["localhost", "LOCALHOST", "wiki.localhost", "localhost.", "wiki.example.org.", "wiki.example.org@127.0.0.1"];

async fn put(stage: &Stage, client: Value) -> crate::harness::api::Answer {
    stage.admin.put("/v1/issuers/main/clients/wiki", client).await
}

/// The first attempt at the only delivery to a client, once it is recorded.
async fn first_attempt(stage: &Stage, client_id: &str) -> Value {
    until(&format!("an attempt at {client_id} is recorded"), || async {
        let listed = stage.admin.items(&format!("/v1/issuers/main/deliveries?client_id={client_id}&limit=1")).await;
        let id = listed[0]["id"].as_str().unwrap();
        let delivery = stage.admin.get(&format!("/v1/issuers/main/deliveries/{id}")).await.expect(200);
        delivery["attempt_records"].get(0).cloned()
    })
    .await
}

/// The same registrations under another server.
async fn restarted(stage: Stage, database: &Database, mode: Mode, variables: &[(&str, &str)]) -> Stage {
    let token = stage.provider.token().to_owned();
    stage.server.stop().await;
    let server = Server::start_with(database, mode, variables).await;
    Stage { admin: server.admin(), provider: server.nobody().with_token(&token), server }
}

async fn in_production(database: &Database, variables: &[(&str, &str)], names: &FixedNames) -> Stage {
    Stage::on(Server::start_with_names(database, Mode::Production, variables, names).await, &["ES256"]).await
}

on_both_engines! {
    async fn no_spelling_of_a_forbidden_address_is_registered(database) {
        let stage = in_production(database, &[], &FixedNames::default()).await;
        for host in FORBIDDEN.iter().chain(&FORBIDDEN_NAMES) {
            for uri in [format!("https://{host}/logout"), format!("https://{host}:8443/logout")] {
                let problem = put(&stage, json!({"backchannel_logout_uri": uri})).await.problem(422, "invalid-field");
                assert!(problem.to_string().contains("\"/backchannel_logout_uri\""), "{uri}: {problem}");
            }
        }
        for uri in ["http://wiki.example.org/logout", "https://wiki.example.org/logout#part", "https://wiki.example.org:22/logout"] {
            put(&stage, json!({"backchannel_logout_uri": uri})).await.problem(422, "invalid-field");
        }
        stage.admin.get("/v1/issuers/main/clients/wiki").await.problem(404, "unknown-client");
        put(&stage, json!({"backchannel_logout_uri": "https://wiki.example.org/logout"})).await.expect(201);
    }

    async fn a_name_that_leads_to_a_forbidden_address_is_never_connected_to(database) {
        let names = FixedNames::default();
        let stage = in_production(database, &[("LOGOUTD_NETWORK__ALLOW", "127.0.0.0/8")], &names).await;
        let loopback = IpAddr::from([127, 0, 0, 1]);
        names.set("wiki.example.org", &[loopback]);
        // Documentation addresses are public enough to be chosen first, and nobody is there.
        names.set("mixed.example.org", &[IpAddr::from([9, 9, 9, 9]), loopback]);
        names.set("mapped.example.org", &["::ffff:127.0.0.1".parse().unwrap()]);
        names.set("excepted.example.org", &[loopback]);
        let (tripwire, excepted) = (Tripwire::lay().await, Tripwire::lay().await);
        for client_id in ["wiki", "mixed", "mapped"] {
            stage.register(client_id, &tripwire.uri_at(&format!("{client_id}.example.org")), json!({})).await;
        }
        let exception = json!({"delivery": {"allow_networks": ["127.0.0.1/32"]}});
        stage.register("excepted", &excepted.uri_at("excepted.example.org"), exception).await;
        stage.login("s-1", "alice", &["wiki", "mixed", "mapped", "excepted"]).await;
        stage.logout(json!({"sid": "s-1"})).await;
        for client_id in ["wiki", "mixed", "mapped"] {
            let attempt = first_attempt(&stage, client_id).await;
            assert_eq!((&attempt["class"], &attempt["failure"]), (&json!("blocked"), &json!("blocked")), "{client_id}");
        }
        // Its tripwire speaks no TLS, but it was reached: the wires are where they should be.
        assert_eq!(first_attempt(&stage, "excepted").await["class"], "recoverable");
        assert_eq!((tripwire.felt(), excepted.felt() > 0), (0, true));
    }

    async fn an_address_that_was_allowed_once_is_judged_again_at_each_attempt(database) {
        let stage = Stage::set(database).await;
        let tripwire = Tripwire::lay().await;
        for (client_id, host) in [("dotted", "127.0.0.1"), ("number", "2130706433"), ("mapped", "[::ffff:127.0.0.1]")] {
            stage.register(client_id, &tripwire.uri_at(host), json!({})).await;
        }
        stage.login("s-1", "alice", &["dotted"]).await;
        stage.login("s-2", "bob", &["dotted", "number", "mapped"]).await;
        stage.logout(json!({"sid": "s-1"})).await;
        until("the tripwire is felt while loopback is allowed", || async { (tripwire.felt() > 0).then_some(()) }).await;
        first_attempt(&stage, "dotted").await;

        let stage = restarted(stage, database, Mode::Production, &[]).await;
        let felt = tripwire.felt();
        stage.logout(json!({"sid": "s-2"})).await;
        for client_id in ["dotted", "number", "mapped"] {
            let attempt = first_attempt(&stage, client_id).await;
            assert_eq!(attempt["class"], "blocked", "{client_id}: {attempt}");
        }
        assert_eq!(tripwire.felt(), felt);
    }

    async fn an_exception_lies_inside_the_deployment_s_ceiling_or_counts_for_nothing(database) {
        let ceiling = [("LOGOUTD_NETWORK__ALLOW", "127.0.0.0/8,10.0.0.0/8,169.0.0.0/8")];
        let stage = in_production(database, &ceiling, &FixedNames::default()).await;
        let tripwire = Tripwire::lay().await;
        let excepting = |host: &str, network: &str| {
            json!({"backchannel_logout_uri": tripwire.uri_at(host), "id_token_signed_response_alg": "ES256", "delivery": {"allow_networks": [network]}})
        };
        for (host, network) in [("192.168.0.1", "192.168.0.0/16"), ("10.0.0.1", "0.0.0.0/0"), ("169.254.169.254", "169.254.169.254/32")] {
            let problem = put(&stage, excepting(host, network)).await.problem(422, "invalid-field");
            assert!(problem.to_string().contains("/delivery/allow_networks"), "{network}: {problem}");
        }
        // Inside the ceiling, and still never reached: credentials live there.
        put(&stage, excepting("169.254.169.254", "169.0.0.0/8")).await.problem(422, "invalid-field");
        // An exception for one network is none for another.
        put(&stage, excepting("10.0.0.1", "127.0.0.0/8")).await.problem(422, "invalid-field");
        put(&stage, excepting("127.0.0.1", "127.0.0.0/8")).await.expect(201);
        stage.login("s-1", "alice", &["wiki"]).await;

        let stage = restarted(stage, database, Mode::Production, &[]).await;
        stage.logout(json!({"sid": "s-1"})).await;
        assert_eq!(first_attempt(&stage, "wiki").await["class"], "blocked");
        assert_eq!(tripwire.felt(), 0);
    }
}

#[tokio::test]
async fn a_server_with_a_proxy_in_its_environment_refuses_to_start() {
    let database = Database::fresh(Engine::Sqlite).await.unwrap();
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        let mut process = Process::serve(&database, &[(name, "http://127.0.0.1:1")]);
        let ended = process.ended().await;
        assert_eq!(ended.code(), Some(1), "{name}");
        assert!(process.log().contains(name) && process.log().contains("network.ambient_proxy"), "{}", process.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_shall_be_ignored_is() {
    let database = Database::fresh(Engine::Sqlite).await.unwrap();
    let proxy = Tripwire::lay().await;
    let uri = format!("http://{}", proxy.address);
    let variables = [("HTTP_PROXY", uri.as_str()), ("http_proxy", &uri), ("ALL_PROXY", &uri), ("LOGOUTD_NETWORK__AMBIENT_PROXY", "ignore")];
    let mut process = Process::serve(&database, &variables);
    let admin = process.admin().await;
    let party = Party::open(&process.base().await, "main", ISSUER, "wiki").await;
    admin.post("/v1/issuers", json!({"id": "main", "issuer": ISSUER, "signing_algs": ["ES256"]})).await.expect(201);
    let client = json!({"backchannel_logout_uri": party.uri(), "id_token_signed_response_alg": "ES256"});
    admin.put("/v1/issuers/main/clients/wiki", client).await.expect(201);
    let provider = admin.mint(json!({"role": "provider", "issuer": "main"})).await;
    provider.put("/v1/issuers/main/sessions/s-1", json!({"sub": "alice", "participants": [{"client_id": "wiki"}]})).await.expect(201);
    let answer = provider.post("/v1/issuers/main/logouts", json!({"target": {"sid": "s-1"}, "reason": "user_logout"})).await;
    assert!(answer.is_success(), "{answer:?}");
    party.only_call().await.token();
    assert_eq!(proxy.felt(), 0);
}
