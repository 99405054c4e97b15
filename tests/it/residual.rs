//! How long tokens may still work elsewhere after a logout: said on the receipt, by whatever is known of the client.

use std::time::Duration;

use logoutd::model::Timestamp;
use serde_json::json;

use crate::harness::database::on_both_engines;
use crate::harness::server::Stage;

on_both_engines! {
    async fn each_line_of_a_receipt_says_until_when_a_token_may_still_work(database) {
        let stage = Stage::set(database).await;
        let mut parties = Vec::new();
        for (client_id, tokens) in [
            ("asks", json!({"gateway_cache_s": 0})),
            ("keeps", json!({"gateway_cache_s": 600})),
            ("bounded", json!({"access_token_max_s": 300, "gateway_cache_s": 600})),
            ("silent", json!({})),
            ("registers", json!({})),
        ] {
            parties.push(stage.party(client_id, json!({ "tokens": tokens })).await);
        }
        stage.login("s-1", "alice", &["asks", "keeps", "bounded", "silent", "registers"]).await;
        let last = stage.server.clock.now().plus(Duration::from_secs(900));
        for (name, expires_at) in [("at-1", last.minus(Duration::from_secs(60))), ("at-2", last)] {
            let token = json!({"sid": "s-1", "client_id": "registers", "token": name, "expires_at": expires_at.to_string()});
            stage.provider.post("/v1/issuers/main/access-tokens", token).await.expect(201);
        }
        let id = stage.logout(json!({"sid": "s-1"})).await["id"].clone();
        let receipt = stage.settled(&id).await;
        let committed = Timestamp::parse(receipt["created_at"].as_str().unwrap()).unwrap();
        let line = |client_id: &str| {
            let lines = receipt["clients"].as_array().unwrap();
            lines.iter().find(|line| line["client_id"] == client_id).unwrap_or_else(|| panic!("{client_id}: {receipt}"))["residual_until"].clone()
        };
        let after = |seconds| json!(committed.plus(Duration::from_secs(seconds)).to_string());
        assert_eq!((line("asks"), line("keeps"), line("bounded")), (after(0), after(600), after(300)));
        assert_eq!((line("silent"), line("registers")), (json!(null), json!(last.to_string())));
        let listed = stage.provider.items(&format!("/v1/issuers/main/logouts/{}/deliveries", id.as_str().unwrap())).await;
        assert!(listed.iter().any(|one| one["client_id"] == "keeps" && one["residual_until"] == after(600)), "{listed:?}");
    }
}
