//! Where a request comes from: what trusted proxies say is believed everywhere, and what anybody else says nowhere.

use std::net::IpAddr;

use logoutd::config::Mode;
use reqwest::Method;
use serde_json::json;

use crate::harness::api::{Answer, Api, send};
use crate::harness::database::{Database, on_both_engines};
use crate::harness::server::{Server, Stage};

/// A proxy at 127.0.0.2 is trusted; one profile is for a gateway far away, one for gateways on this machine.
const SETTINGS: [(&str, &str); 5] = [
    ("LOGOUTD_HTTP__TRUSTED_PROXIES", "127.0.0.2,127.0.0.3"),
    ("LOGOUTD_CHECK__FAR__ISSUER", "main"),
    ("LOGOUTD_CHECK__FAR__ALLOW_NETWORKS", "203.0.113.0/24"),
    ("LOGOUTD_CHECK__HERE__ISSUER", "main"),
    ("LOGOUTD_CHECK__HERE__ALLOW_NETWORKS", "127.0.0.0/8"),
];

const PROXY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

async fn stage(database: &Database, more: &[(&str, &str)]) -> Stage {
    Stage::on(Server::start_with(database, Mode::Dev, &[&SETTINGS, more].concat()).await, &["ES256"]).await
}

async fn by(caller: &Api, header: Option<(&str, &str)>, method: Method, path: &str, body: &str) -> Answer {
    let request = caller.request(method, path).header("Content-Type", "application/json").body(body.to_owned());
    send(match header {
        Some((name, value)) => request.header(name, value),
        None => request,
    })
    .await
}

/// Where the trail says that an act came from which was asked for like this.
async fn noted(stage: &Stage, caller: &Api, header: Option<(&str, &str)>) -> String {
    by(caller, header, Method::POST, "/v1/api-tokens", "{\"role\": \"auditor\"}").await.expect(201);
    stage.admin.items("/v1/audit").await[0]["remote"].as_str().unwrap().to_owned()
}

on_both_engines! {
    async fn the_trail_names_who_asks_and_not_what_it_says_of_itself(database) {
        let stage = stage(database, &[]).await;
        let (proxied, direct) = (stage.admin.at_address(PROXY), stage.admin.clone());
        let said = |value| Some(("X-Forwarded-For", value));
        assert_eq!(noted(&stage, &proxied, said("203.0.113.7")).await, "203.0.113.7");
        assert_eq!(noted(&stage, &proxied, said("198.51.100.1, 203.0.113.7, 127.0.0.3")).await, "203.0.113.7");
        assert_eq!(noted(&stage, &proxied, said("[2001:db8::7]:4711")).await, "2001:db8::7");
        assert_eq!(noted(&stage, &proxied, said("203.0.113.7, not an address")).await, "127.0.0.2");
        assert_eq!(noted(&stage, &proxied, Some(("Forwarded", "for=203.0.113.7"))).await, "127.0.0.2", "the other header is not heard");
        assert_eq!(noted(&stage, &proxied, None).await, "127.0.0.2");
        assert_eq!(noted(&stage, &direct, said("203.0.113.7")).await, "127.0.0.1");
    }

    async fn the_standard_s_header_is_read_where_it_is_the_one_that_is_believed(database) {
        let stage = stage(database, &[("LOGOUTD_HTTP__FORWARDED", "forwarded")]).await;
        let proxied = stage.admin.at_address(PROXY);
        assert_eq!(noted(&stage, &proxied, Some(("Forwarded", "for=\"[2001:db8::7]\";proto=https, for=127.0.0.3"))).await, "2001:db8::7");
        assert_eq!(noted(&stage, &proxied, Some(("X-Forwarded-For", "203.0.113.7"))).await, "127.0.0.2");
        assert_eq!(noted(&stage, &stage.admin, Some(("Forwarded", "for=203.0.113.7"))).await, "127.0.0.1");
    }

    async fn a_gateway_is_where_it_asks_from_and_no_header_brings_anybody_there(database) {
        let stage = stage(database, &[]).await;
        let nobody = stage.server.nobody();
        let proxied = nobody.at_address(PROXY);
        let known = async |caller: &Api, value: Option<&str>, profile: &str| {
            let header = value.map(|value| ("X-Forwarded-For", value));
            let answer = by(caller, header, Method::GET, &format!("/main/check/{profile}"), "").await;
            assert!([401, 403].contains(&answer.status), "{answer:?}");
            answer.status == 401
        };
        assert!(known(&proxied, Some("203.0.113.7"), "far").await && known(&nobody, None, "here").await);
        for spoofed in ["203.0.113.7, 198.51.100.1", "198.51.100.1", "203.0.113.7, x", "203.0.113.7,", "127.0.0.2"] {
            assert!(!known(&proxied, Some(spoofed), "far").await, "{spoofed}");
        }
        assert!(!known(&nobody, Some("203.0.113.7"), "far").await, "who is not trusted is not heard");
        // The proxy's own place is open to everybody behind it.
        for said in [None, Some("garbage"), Some("198.51.100.1"), Some("127.0.0.1, 198.51.100.1")] {
            assert!(!known(&proxied, said, "here").await, "{said:?}");
        }
    }

    async fn who_guesses_locks_out_itself_and_nobody_else_behind_the_proxy_and_no_invention_helps_it(database) {
        let stage = stage(database, &[]).await;
        stage.register("wiki", "https://wiki.example/logout", json!({"client_secret": "the-secret-of-the-wiki-0123456789"})).await;
        let proxied = stage.server.nobody().at_address(PROXY);
        let guess = async |secret: &str, from: &str| {
            let form = format!("token=t&client_id=wiki&client_secret={secret}");
            let request = proxied.request(Method::POST, "/main/introspect").header("X-Forwarded-For", from);
            send(request.header("Content-Type", "application/x-www-form-urlencoded").body(form)).await.status
        };
        for number in 0..10 {
            assert_eq!(guess("wrong", &format!("192.0.2.{number}, 203.0.113.7")).await, 401, "{number}");
        }
        assert_eq!(guess("wrong", "192.0.2.99, 203.0.113.7").await, 429);
        assert_eq!(guess("the-secret-of-the-wiki-0123456789", "203.0.113.8").await, 200);
    }
}
