//! Issuers and clients that the configuration declares: registered at the start, changed there alone, and released when they are not declared any more.

use std::path::PathBuf;

use logoutd::app;
use logoutd::config::Mode;
use logoutd::seams::Clock;
use serde_json::{Value, json};

use crate::harness::api::{Api, send};
use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::Party;
use crate::harness::server::{ISSUER, Server};

const MAIN: &str = "/v1/issuers/main";
const WIKI: &str = "/v1/issuers/main/clients/wiki";

/// With every kind of secret a registration can hold.
const EVERY_SECRET: &str = r#"
[[issuers]]
id = "main"
issuer = "https://id.example.com/realms/Main/"
signing_algs = ["ES256"]
session_max_age = 3_600

[issuers.provider_logout]
preset = "http"
url = "https://id.example.com/sessions/{sid}"
auth = { type = "bearer", token_file = "DIR/token" }

[issuers.introspect_upstream]
endpoint = "https://id.example.com/introspect"
client_id = "logoutd"
client_secret = "upstream-secret"

[issuers.revocation]
endpoint = "https://id.example.com/revoke"
client_id = "logoutd"
client_secret = "revocation-secret"

[[issuers.clients]]
client_id = "wiki"
id_token_signed_response_alg = "ES256"
backchannel_logout_uri = "https://wiki.example.com/logout"
client_secret_file = "DIR/wiki-secret"
delivery = { timeout_ms = 5000, headers = { "x-one" = "first", "x-two_file" = "DIR/header" } }
tokens = { grace_s = 5, provider_client_secret = "provider-secret" }
"#;

fn simple(issuer: &str, client: &str) -> String {
    format!(
        "[[issuers]]\nid = \"main\"\nissuer = \"{ISSUER}\"\nsigning_algs = [\"ES256\"]\n{issuer}\n[[issuers.clients]]\nclient_id = \"wiki\"\n\
         id_token_signed_response_alg = \"ES256\"\n{client}\n"
    )
}

/// Writes a configuration file beside the database.
fn write(database: &Database, text: &str) -> PathBuf {
    let directory = database.directory();
    for (name, secret) in [("token", "a-bearer-token\n"), ("wiki-secret", "wiki-secret-of-the-file\n"), ("header", "second\n")] {
        std::fs::write(directory.join(name), secret).unwrap();
    }
    let path = directory.join("logoutd.toml");
    std::fs::write(&path, text.replace("DIR", directory.to_str().unwrap())).unwrap();
    path
}

async fn try_start(database: &Database, text: &str) -> Result<Server, app::Error> {
    let path = write(database, text);
    Server::try_start(database, Mode::Dev, &[("LOGOUTD_CONFIG", path.to_str().unwrap())], Clock::system()).await
}

async fn start(database: &Database, text: &str) -> Server {
    try_start(database, text).await.unwrap()
}

/// Why a start is refused.
async fn refused(database: &Database, text: &str) -> String {
    try_start(database, text).await.err().expect("it must not start").to_string()
}

/// The status by which a client with this secret is answered about a token that its provider would have to be asked about.
async fn said(api: &Api, secret: &str) -> u16 {
    let asked = api.without_token().request(reqwest::Method::POST, "/main/introspect").basic_auth("wiki", Some(secret));
    send(asked.header("Content-Type", "application/x-www-form-urlencoded").body("token=none")).await.status
}

/// The acts of the trail, the latest first, but for those that are not about registrations.
async fn acts(admin: &Api) -> Vec<String> {
    let about = ["issuer_created", "issuer_changed", "issuer_released", "client_put", "client_released"];
    let trail = admin.items("/v1/audit?limit=1000").await;
    let acts = trail.iter().map(|record| format!("{} by {}", record["act"].as_str().unwrap(), record["caller"].as_str().unwrap()));
    acts.filter(|act| about.iter().any(|name| act.starts_with(name))).collect()
}

on_both_engines! {
    async fn what_is_declared_is_registered_before_the_first_request_and_a_second_start_changes_nothing(database) {
        let server = start(database, EVERY_SECRET).await;
        let admin = server.admin();
        let (issuer, wiki) = (admin.get(MAIN).await, admin.get(WIKI).await);
        let (issuer_tag, wiki_tag) = (issuer.header("etag").to_owned(), wiki.header("etag").to_owned());
        let (issuer, wiki) = (issuer.expect(200), wiki.expect(200));
        assert_eq!((&issuer["declared"], &issuer["session_max_age"], &issuer["signing_algs"]), (&json!(true), &json!(3600), &json!(["ES256"])));
        assert_eq!(issuer["provider_logout"]["auth"]["token_registered"], json!(true));
        assert_eq!(issuer["introspect_upstream"]["client_secret_registered"], json!(true));
        assert_eq!((&wiki["declared"], &wiki["client_secret_registered"]), (&json!(true), &json!(true)));
        assert_eq!((&wiki["delivery"]["header_names"], &wiki["delivery"]["timeout_ms"]), (&json!(["x-one", "x-two"]), &json!(5000)));
        assert_eq!(acts(&admin).await, ["client_put by configuration", "issuer_created by configuration"]);
        assert_eq!([said(&admin, "wiki-secret-of-the-file").await, said(&admin, "second").await], [503, 401], "its provider is away");
        server.stop().await;

        let server = start(database, EVERY_SECRET).await;
        let admin = server.admin();
        let (issuer, wiki) = (admin.get(MAIN).await, admin.get(WIKI).await);
        assert_eq!((issuer.header("etag"), wiki.header("etag")), (issuer_tag.as_str(), wiki_tag.as_str()));
        assert_eq!(acts(&admin).await.len(), 2, "nothing new is written down");
        server.stop().await;

        let changed = EVERY_SECRET.replace("revocation-secret", "another-secret").replace("\"first\"", "\"third\"");
        let server = start(database, &changed).await;
        let trail = acts(&server.admin()).await;
        assert_eq!(trail[..2], ["client_put by configuration", "issuer_changed by configuration"], "a secret that changed is a change");
        assert_eq!(trail.len(), 4);
        let issuer = server.admin().get(MAIN).await.expect(200);
        assert_eq!(issuer["revocation"]["client_secret_registered"], json!(true));
    }

    async fn what_is_declared_is_changed_by_nobody_else_and_still_operated(database) {
        let server = start(database, &simple("", "")).await;
        let admin = server.admin();
        let told = admin.patch(MAIN, json!({"session_max_age": 60})).await.problem(409, "declared");
        assert!(told["detail"].as_str().unwrap().contains("[[issuers]]"), "{told}");
        admin.delete(MAIN).await.problem(409, "declared");
        admin.put(WIKI, json!({"client_name": "Mine"})).await.problem(409, "declared");
        admin.post("/v1/issuers/main/clients", json!({"client_id": "wiki"})).await.problem(409, "already-exists");
        admin.delete(WIKI).await.problem(409, "declared");
        assert_eq!(admin.get(WIKI).await.expect(200)["client_name"], Value::Null);

        for act in ["pause", "resume", "suspend", "unsuspend"] {
            assert!(admin.post(&format!("{WIKI}/{act}"), json!({})).await.is_success(), "{act}");
        }
        assert!(admin.post("/v1/issuers/main/keys/rotate", json!({"alg": "ES256"})).await.is_success());

        let blog = admin.put("/v1/issuers/main/clients/blog", json!({"id_token_signed_response_alg": "ES256"})).await.expect(201);
        assert_eq!(blog["declared"], json!(false));
        admin.delete("/v1/issuers/main/clients/blog").await.expect(204);
    }

    async fn what_is_not_declared_any_more_stays_as_it_is_and_is_released(database) {
        let server = start(database, &simple("session_max_age = 7200", "client_name = \"Wiki\"")).await;
        let admin = server.admin();
        let provider = admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        let login = json!({"sub": "alice", "participants": [{"client_id": "wiki", "refresh_token": {"token": "a-refresh-token"}}]});
        provider.put("/v1/issuers/main/sessions/s1", login).await.expect(201);
        server.stop().await;

        let server = start(database, simple("", "").split("[[issuers.clients]]").next().unwrap()).await;
        let admin = server.admin();
        let wiki = admin.get(WIKI).await.expect(200);
        assert_eq!((&wiki["declared"], &wiki["client_name"]), (&json!(false), &json!("Wiki")));
        assert_eq!(admin.get(MAIN).await.expect(200)["declared"], json!(true));
        assert_eq!(acts(&admin).await[..2], ["client_released by configuration", "issuer_changed by configuration"]);
        server.stop().await;

        let server = start(database, "").await;
        let admin = server.admin();
        assert_eq!(acts(&admin).await[0], "issuer_released by configuration");
        assert_eq!(admin.get(MAIN).await.expect(200)["declared"], json!(false));
        admin.patch(MAIN, json!({"session_max_age": 60})).await.expect(200);
        admin.put(WIKI, json!({"client_name": "Mine", "id_token_signed_response_alg": "ES256"})).await.expect(200);
        assert_eq!(admin.introspect("a-refresh-token").await["active"], json!(true), "nobody's grants were revoked");
        server.stop().await;

        let server = start(database, "").await;
        assert_eq!(acts(&server.admin()).await[0], "client_put by bootstrap", "what was released is not released again");
    }

    async fn what_was_registered_by_the_api_is_taken_over_with_its_secrets(database) {
        let server = start(database, "").await;
        let admin = server.admin();
        admin.post("/v1/issuers", json!({"id": "main", "issuer": ISSUER, "signing_algs": ["ES256", "EdDSA"], "subject_secrets": true})).await.expect(201);
        let party = Party::open(&server.base, "main", ISSUER, "wiki").await;
        let body = json!({"backchannel_logout_uri": party.uri(), "id_token_signed_response_alg": "ES256", "client_secret": "hush-hush-hush",
            "delivery": {"headers": {"x-key": "hush"}}});
        admin.put(WIKI, body).await.expect(201);
        server.stop().await;

        let text = simple("", &format!("backchannel_logout_uri = \"{}\"", party.uri())).replace("signing_algs = [\"ES256\"]\n", "");
        let server = start(database, &text).await;
        let admin = server.admin();
        let (issuer, wiki) = (admin.get(MAIN).await.expect(200), admin.get(WIKI).await.expect(200));
        assert_eq!((&issuer["declared"], &issuer["subject_secrets"], &issuer["signing_algs"]), (&json!(true), &json!(true), &json!(["ES256", "EdDSA"])));
        assert_eq!((&wiki["declared"], &wiki["client_secret_registered"], &wiki["delivery"]["header_names"]), (&json!(true), &json!(true), &json!(["x-key"])));
        server.stop().await;

        let server = start(database, &format!("{text}client_secret = false\ndelivery = {{ headers = false }}\n")).await;
        let wiki = server.admin().get(WIKI).await.expect(200);
        assert_eq!((&wiki["client_secret_registered"], &wiki["delivery"]["header_names"]), (&json!(false), &Value::Null));
    }

    async fn a_change_that_the_api_would_refuse_refuses_the_start_and_says_where(database) {
        let server = start(database, &simple("", "delivery = { headers = { \"x-key\" = \"hush\" } }\nbackchannel_logout_uri = \"https://wiki.example.com/l\"")).await;
        let provider = server.admin().mint(json!({"role": "provider", "issuer": "main"})).await;
        provider.put("/v1/issuers/main/sessions/s1", json!({"sub": "alice"})).await.expect(201);
        server.stop().await;

        let why = refused(database, &simple("", "").replace(ISSUER, "https://other.example.com/")).await;
        assert!(why.contains("issuers[main].issuer (") && why.contains("logoutd.toml:3)") && why.contains("keeps its identifier"), "{why}");
        let why = refused(database, &simple("", "").replace("[\"ES256\"]", "[\"EdDSA\"]")).await;
        assert!(why.contains("issuers[main].signing_algs (") && why.contains("must keep ES256"), "{why}");
        let why = refused(database, &simple("", "backchannel_logout_uri = \"https://elsewhere.example.com/l\"")).await;
        assert!(why.contains("issuers[main].clients[wiki].delivery.headers (") && why.contains("another host"), "{why}");
        let why = refused(database, &simple("colour = \"red\"", "backchannel_logout_uri = \"ftp://wiki\"")).await;
        assert!(why.contains("2 mistakes") && why.contains("issuers[main].colour") && why.contains("logoutd.toml:5)"), "{why}");
        assert!(why.contains("clients[wiki].backchannel_logout_uri") && why.contains("logoutd.toml:9)"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_at_once_register_what_is_declared_once() {
    let Some(database) = Database::fresh(Engine::Postgres).await else { return };
    let mut text = simple("", "");
    text.extend((0..5).map(|n| format!("[[issuers.clients]]\nclient_id = \"c{n}\"\nid_token_signed_response_alg = \"ES256\"\n")));
    write(&database, &text);
    let (one, two, three) = tokio::join!(start(&database, &text), start(&database, &text), start(&database, &text));
    assert_eq!(acts(&one.admin()).await.len(), 7);
    for server in [one, two, three] {
        assert_eq!(server.admin().items("/v1/issuers/main/clients").await.len(), 6);
    }
}
