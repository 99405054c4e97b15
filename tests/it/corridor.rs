//! The main job through the door: a login is reported, a logout posted, every relying party told, and the receipt says so.

use serde_json::json;

use crate::harness::database::on_both_engines;
use crate::harness::server::Stage;

on_both_engines! {
    async fn a_logout_ends_the_session_kills_its_token_and_reaches_every_relying_party(database) {
        let stage = Stage::set(database).await;
        let (wiki, shop) = (stage.party("wiki", json!({})).await, stage.party("shop", json!({})).await);
        stage.login("s-1", "alice", &["wiki", "shop"]).await;
        let receipt = stage.logout(json!({"sid": "s-1"})).await;
        for party in [&wiki, &shop] {
            let call = party.only_call().await;
            assert_eq!(call.claim("sid"), "s-1");
            assert_eq!(call.claim("sub"), "alice");
        }
        let receipt = stage.settled(&receipt["id"]).await;
        assert_eq!(receipt["deliveries"]["delivered"], 2, "{receipt}");
        stage.server.stop().await;
    }
}
