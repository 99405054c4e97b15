//! The command line as a person and a script use it: the real binary against a real server with loopback relying parties.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use logoutd::model::delivery::Lane;
use logoutd::model::lane::LaneChange;
use logoutd::model::{ClientId, IssuerId};
use logoutd::store::LaneNote;
use serde_json::{Value, json};

use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::Reply;
use crate::harness::provider::Provider;
use crate::harness::proxy::{Cut, Proxy};
use crate::harness::server::{ADMIN_TOKEN, Stage};
use crate::harness::until;

/// A shell with the variables of a person who may do everything.
pub(crate) struct Shell {
    variables: BTreeMap<&'static str, String>,
}

/// What a command did.
#[derive(Debug)]
struct Ran {
    status: i32,
    out: String,
    err: String,
}

impl Shell {
    pub(crate) fn at(base: &str) -> Self {
        Self { variables: BTreeMap::from([("LOGOUTD_URL", base.to_owned()), ("LOGOUTD_TOKEN", ADMIN_TOKEN.to_owned())]) }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.insert(name, value.to_owned());
        self
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_logoutd"));
        command.args(line).env_clear().envs(&self.variables).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end. The server has threads of its own, so it may be waited for.
    fn run(&self, line: &[&str]) -> Ran {
        self.command(line).output().unwrap().into()
    }

    /// What a command prints that must be done.
    #[track_caller]
    fn done(&self, line: &[&str]) -> String {
        let ran = self.run(line);
        assert_eq!(ran.status, 0, "{line:?}: {ran:?}");
        ran.out
    }

    /// What a command prints for a program.
    #[track_caller]
    pub(crate) fn json(&self, line: &[&str]) -> Value {
        let out = self.done(&[line, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line:?}: {error} in {out}"))
    }

    /// What a command says that must fail so.
    #[track_caller]
    fn fails(&self, status: i32, line: &[&str]) -> String {
        let ran = self.run(line);
        assert_eq!(ran.status, status, "{line:?}: {ran:?}");
        ran.err
    }

    fn begin(&self, line: &[&str]) -> Child {
        self.command(line).spawn().unwrap()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
        Self { status: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// The rows of a printed table, by their headings.
fn rows(printed: &str) -> Vec<Vec<&str>> {
    printed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

fn file(database: &Database, name: &str, content: &Value) -> PathBuf {
    let path = database.directory().join(name);
    std::fs::write(&path, content.to_string()).unwrap();
    path
}

/// The receipt once it is settled, as an administrator sees it: a provider sees none of these.
async fn settled(stage: &Stage, id: &Value) -> Value {
    let path = format!("/v1/issuers/main/logouts/{}", id.as_str().unwrap());
    until("the logout settles", || async {
        let receipt = stage.admin.get(&path).await.expect(200);
        (receipt["state"] == "settled").then_some(receipt)
    })
    .await
}

on_both_engines! {
    async fn each_command_does_what_its_route_does(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        let shell = Shell::at(&stage.server.base);
        let put = |name: &str, body: &Value| file(database, name, body).to_str().unwrap().to_owned();

        // Registration.
        let issuer = put("issuer", &json!({"id": "second", "issuer": "https://second.example.com", "signing_algs": ["ES256"], "mood": "good"}));
        let ran = shell.run(&["issuer", "put", &issuer]);
        assert!(ran.status == 0 && ran.out.contains("https://second.example.com") && ran.err.contains("ignored: mood"), "{ran:?}");
        let changed = put("changed", &json!({"id": "second", "session_max_age": 3600}));
        assert!(shell.done(&["issuer", "put", &changed]).contains("3600"));
        assert_eq!(shell.json(&["issuer", "list"]), stage.admin.get("/v1/issuers").await.expect(200));
        assert_eq!(shell.json(&["issuer", "show", "main"]), stage.admin.get("/v1/issuers/main").await.expect(200));
        let client = put("client", &json!({"client_id": "mail", "client_name": "Mail"}));
        shell.done(&["client", "put", "main", &client]);
        assert_eq!(shell.json(&["client", "show", "main", "mail"])["client_name"], "Mail");
        let listed = shell.done(&["client", "list", "main", "--oldest"]);
        assert_eq!(rows(&listed).len(), 2, "{listed}");
        assert!(shell.done(&["client", "test", "main", "wiki"]).contains("delivered"));
        assert!(shell.fails(1, &["client", "test", "main", "mail"]).contains("client show"));
        shell.done(&["client", "pause", "main", "wiki"]);
        assert!(!shell.json(&["client", "show", "main", "wiki"])["lane"]["paused_at"].is_null());
        shell.done(&["client", "resume", "main", "wiki"]);
        shell.done(&["client", "suspend", "main", "wiki"]);
        assert!(shell.json(&["client", "show", "main", "wiki"])["suspended_at"].is_string());
        shell.done(&["client", "unsuspend", "main", "wiki"]);

        // Sessions.
        stage.login("s-1", "alice", &["wiki", "mail"]).await;
        stage.login("s-2", "bob", &["wiki"]).await;
        assert_eq!(shell.json(&["session", "list", "main"]), stage.admin.get("/v1/issuers/main/sessions").await.expect(200));
        for by in [&["--sub", "alice"][..], &["--sid", "s-1"], &["--client", "mail"]] {
            let listed = shell.done(&[&["session", "list", "main", "--state", "live"], by].concat());
            assert!(rows(&listed).len() == 1 && listed.contains("alice"), "{by:?}: {listed}");
        }
        assert_eq!(rows(&shell.done(&["session", "list", "main", "--device", "none"])).len(), 0);
        let shown = shell.done(&["session", "show", "main", "s-1"]);
        assert!(shown.contains("alice") && shown.contains("wiki") && shown.contains("mail"), "{shown}");
        let status = stage.admin.post("/v1/issuers/main/subjects/status", json!({"sub": "alice"})).await.expect(200);
        assert_eq!(shell.json(&["status", "main", "--sub", "alice"]), status);
        assert!(shell.done(&["status", "main", "--sub", "alice"]).starts_with("alice may still be in 2 applications:"));

        // Logouts and deliveries.
        let killed = shell.json(&["kill", "main", "--sid", "s-1", "--note", "by hand", "--actor", "carol"]);
        let id = killed["id"].as_str().unwrap();
        // The token that tried it out, and this one.
        assert_eq!(wiki.received(2).await.len(), 2);
        let receipt = settled(&stage, &killed["id"]).await;
        assert_eq!((&receipt["note"], &receipt["actor"], &receipt["reason"]), (&json!("by hand"), &json!("carol"), &json!("admin")));
        assert_eq!(shell.json(&["logout", "show", "main", id]), receipt);
        assert!(shell.done(&["logout", "show", "main", id]).contains("deliveries      2: 1 confirmed, 0 pending, 0 given up, 1 cannot be told"));
        for by in [&["--actor", "carol"][..], &["--sid", "s-1", "--reason", "admin"], &["--client", "wiki", "--since", "1h", "--state", "settled"]] {
            let listed = shell.done(&[&["logout", "list", "main"], by].concat());
            assert!(rows(&listed).len() == 1 && listed.contains(id), "{by:?}: {listed}");
        }
        assert_eq!(rows(&shell.done(&["logout", "list", "main", "--until", "1h"])).len(), 0);
        let deliveries = shell.json(&["delivery", "list", "main", "--logout", id]);
        assert_eq!(deliveries, stage.admin.get(&format!("/v1/issuers/main/logouts/{id}/deliveries")).await.expect(200));
        assert_eq!(rows(&shell.done(&["delivery", "list", "main", "--state", "delivered", "--client", "wiki"])).len(), 1);
        let told = deliveries["items"].as_array().unwrap().iter().find(|told| told["client_id"] == "wiki").unwrap()["id"].as_str().unwrap();
        assert!(shell.done(&["delivery", "show", "main", told]).contains("127.0.0.1"));
        assert!(shell.done(&["delivery", "replay", "main", "--state", "delivered", "--since", "1h", "--dry-run"]).starts_with("1 delivery would"));
        assert_eq!(shell.json(&["delivery", "replay", "main", "--state", "delivered", "--since", "1h"])["reopened"], 1);
        assert_eq!(wiki.received(3).await.len(), 3);
        settled(&stage, &killed["id"]).await;
        shell.done(&["client", "pause", "main", "wiki"]);
        assert!(shell.done(&["delivery", "retry", "main", told]).contains("pending"));
        assert!(shell.done(&["delivery", "cancel", "main", told]).contains("cancelled"));
        assert!(shell.fails(1, &["delivery", "cancel", "main", told]).contains("409"));
        let held = shell.json(&["kill", "main", "--sid", "s-2"]);
        let undo = ["logout", "undo", "main", held["id"].as_str().unwrap()];
        let asked = shell.fails(2, &undo);
        assert!(asked.contains("good again") && asked.contains("--yes"), "{asked}");
        let undone = shell.json(&[&undo[..], &["--yes"]].concat());
        assert_eq!((&undone["deliveries"]["cancelled"], undone["undone_at"].is_string()), (&json!(1), true));

        // Tokens.
        let ordered = shell.json(&["cut-off", "order", "main", "--sub", "alice", "--expires-at", "2h"]);
        assert_eq!(rows(&shell.done(&["cut-off", "list", "main"])).len(), 1);
        shell.done(&["cut-off", "lift", "main", ordered["id"].as_str().unwrap()]);
        assert!(shell.fails(2, &["cut-off", "order", "main", "--everyone"]).contains("--yes"));
        let denied = shell.json(&["denylist", "add", "main", "--jti", "j-1", "--expires-at", "2h"]);
        assert!(shell.done(&["denylist", "list", "main"]).contains("j-1"));
        shell.done(&["denylist", "lift", "main", denied["id"].as_str().unwrap()]);
        let token = shell.json(&["token", "create", "--role", "auditor"]);
        let auditor = Shell::at(&stage.server.base).with("LOGOUTD_TOKEN", token["token"].as_str().unwrap());
        assert_eq!(rows(&auditor.done(&["session", "list", "main"])).len(), 2);
        assert!(shell.done(&["token", "list"]).contains(token["id"].as_str().unwrap()));
        shell.done(&["token", "revoke", token["id"].as_str().unwrap()]);
        assert!(auditor.fails(1, &["session", "list", "main"]).contains("logoutd token create"));
        assert!(shell.done(&["keys", "list", "main"]).contains("ES256"));

        assert!(shell.fails(2, &["client", "delete", "main", "mail"]).contains("--yes"));
        assert_eq!(shell.done(&["client", "delete", "main", "mail", "--yes"]), "deleted\n");
        assert_eq!(rows(&shell.done(&["client", "list", "main"])).len(), 1);
    }

    async fn what_ends_more_than_one_session_is_shown_and_never_done_unasked(database) {
        let stage = Stage::set(database).await;
        let _wiki = stage.party("wiki", json!({})).await;
        let shell = Shell::at(&stage.server.base);
        stage.register("mute", "http://127.0.0.1:1/", json!({"backchannel_logout_uri": null})).await;
        for n in 0..3 {
            stage.login(&format!("s-{n}"), "alice", &["wiki", "mute"]).await;
        }
        let states = async || {
            let sessions = stage.admin.items("/v1/issuers/main/sessions?state=live").await;
            sessions.len()
        };
        let shown = shell.done(&["kill", "main", "--sub", "alice", "--dry-run"]);
        assert!(shown.contains("end 3 sessions") && shown.contains("make 6 deliveries") && shown.contains("without a password"), "{shown}");
        assert!(shown.lines().any(|line| line.split_whitespace().eq(["mute", "0", "3"])), "{shown}");
        assert!(shown.lines().any(|line| line.split_whitespace().eq(["wiki", "3", "0"])), "{shown}");
        for many in [&["--sub", "alice"][..], &["--client", "wiki"], &["--everyone"]] {
            let everybody = shell.done(&[&["kill", "main", "--dry-run"], many].concat());
            assert!(everybody.lines().any(|line| line.split_whitespace().eq(["wiki", "3", "0"])), "{many:?}: {everybody}");
            let told = shell.fails(2, &[&["kill", "main"], many].concat());
            assert!(told.contains("--yes"), "{many:?}: {told}");
        }
        assert_eq!(states().await, 3, "whoever was not asked has ended nothing");
        // One session needs no question, and neither does who said yes.
        assert_eq!(shell.json(&["kill", "main", "--sid", "s-0"])["sessions_ended"], 1);
        assert_eq!(shell.json(&["kill", "main", "--sub", "alice", "--except-sid", "s-1"])["sessions_ended"], 1);
        stage.login("s-3", "alice", &[]).await;
        assert_eq!(shell.json(&["kill", "main", "--sub", "alice", "--yes"])["sessions_ended"], 2);
        assert_eq!(states().await, 0);
        for wrong in [&[][..], &["--sid", "s", "--sub", "a"], &["--everyone", "--client", "wiki"], &["--sid", "s", "--reason", "boredom"]] {
            shell.fails(2, &[&["kill", "main"], wrong].concat());
        }
    }

    async fn a_kill_is_watched_through_failures_to_its_end(database) {
        let stage = Stage::set(database).await;
        let (wiki, _mail) = (stage.party("wiki", json!({})).await, stage.party("mail", json!({})).await);
        wiki.answers([Reply::Status(503)]);
        stage.login("s-1", "alice", &["wiki", "mail"]).await;
        let watching = Shell::at(&stage.server.base).begin(&["kill", "main", "--sid", "s-1", "--watch", "--json"]);
        wiki.received(1).await;
        let advanced = until("wiki is asked again", || async {
            stage.server.advance(Duration::from_secs(5));
            (wiki.calls().len() > 1).then_some(())
        });
        advanced.await;
        let ran = Ran::from(watching.wait_with_output().unwrap());
        assert_eq!(ran.status, 0, "{ran:?}");
        let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [first, events @ .., last] = &lines[..] else { panic!("{ran:?}") };
        assert!(first["id"].is_string() && events.len() == 2, "{ran:?}");
        assert!(events.iter().all(|event| event["state"] == "delivered"), "{ran:?}");
        assert_eq!((&last["id"], &last["state"], &last["deliveries"]["delivered"]), (&first["id"], &json!("settled"), &json!(2)));
    }

    async fn a_client_shows_when_it_is_probed_next_and_a_test_says_that_it_is_back_or_what_to_look_at(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        let shell = Shell::at(&stage.server.base);
        let store = stage.server.store();
        let now = store.now().await.unwrap();
        let lane = Lane::of(&IssuerId::parse("main").unwrap(), &ClientId::parse("wiki").unwrap());
        let probe_at = now.plus(Duration::from_mins(7));
        let note = LaneNote { lane, change: LaneChange::Open { failing: true }, probe_at, hasten: Vec::new() };
        store.note_lanes(vec![note], now).await.unwrap();
        let shown = shell.done(&["client", "show", "main", "wiki"]);
        let next = shown.lines().find_map(|line| line.strip_prefix("next probe")).unwrap().trim();
        assert_eq!(next, format!("{}Z", probe_at.to_string().split('.').next().unwrap()), "{shown}");

        wiki.answers([Reply::Status(503), Reply::Status(400), Reply::Status(410)]);
        for (status, class, remark) in [(1, "recoverable", "its certificate"), (0, "refused", "its own log"), (1, "gone", "given up at once")] {
            let ran = shell.run(&["client", "test", "main", "wiki"]);
            assert!(ran.status == status && ran.out.contains(class) && ran.out.contains(remark) && !ran.out.contains("breaker"), "{ran:?}");
        }
        let told = shell.done(&["client", "test", "main", "wiki"]);
        assert!(told.ends_with("its breaker was open and is closed by this: what waits for it is due now\n"), "{told}");
        assert!(!shell.done(&["client", "show", "main", "wiki"]).contains("next probe"));
        assert!(!shell.done(&["client", "test", "main", "wiki"]).contains("breaker"), "it is closed already");
    }

    async fn whoever_was_given_up_makes_watching_fail(database) {
        let stage = Stage::set(database).await;
        let (wiki, _mail) = (stage.party("wiki", json!({"delivery": {"confirm_rejections": 0}})).await, stage.party("mail", json!({})).await);
        wiki.always(Reply::Status(400));
        stage.login("s-1", "alice", &["wiki", "mail"]).await;
        let shell = Shell::at(&stage.server.base);
        let ran = shell.run(&["kill", "main", "--sid", "s-1", "--watch"]);
        assert!(ran.status == 1 && ran.err.contains("not everybody confirmed: 1 refused"), "{ran:?}");
        assert!(ran.out.contains("wiki (s-1) rejected: refused") && ran.out.contains("1 confirmed, 0 pending, 1 given up"), "{ran:?}");
        let id = stage.admin.items("/v1/issuers/main/logouts").await[0]["id"].clone();
        wiki.always(Reply::Status(200));
        let delivery = stage.admin.items("/v1/issuers/main/deliveries?client_id=wiki").await[0]["id"].clone();
        shell.done(&["delivery", "retry", "main", delivery.as_str().unwrap()]);
        let watched = shell.done(&["logout", "watch", "main", id.as_str().unwrap()]);
        assert!(watched.contains("2 confirmed, 0 pending, 0 given up"), "{watched}");
    }

    async fn an_answer_lost_half_way_is_asked_for_again_and_makes_one_logout(database) {
        let stage = Stage::set(database).await;
        let _wiki = stage.party("wiki", json!({})).await;
        stage.login("s-1", "alice", &["wiki"]).await;
        // The first answer never comes, the second breaks off in its head.
        let proxy = Proxy::open(&stage.server.base, [Cut::AnswerAfter(0), Cut::AnswerAfter(20)]).await;
        let ran = Shell::at(&proxy.base()).run(&["kill", "main", "--sid", "s-1", "--json"]);
        assert_eq!(ran.status, 0, "{ran:?}");
        assert_eq!(ran.err.matches("under the same key").count(), 2, "{ran:?}");
        let receipt: Value = serde_json::from_str(&ran.out).unwrap();
        let logouts = stage.admin.items("/v1/issuers/main/logouts").await;
        assert!(logouts.len() == 1 && logouts[0]["id"] == receipt["id"] && receipt["sessions_ended"] == 1, "{receipt} {logouts:?}");

        // Where no answer comes at all, it says which key to repeat it with; then it is the same logout.
        stage.login("s-2", "alice", &["wiki"]).await;
        let deaf = Proxy::open(&stage.server.base, std::iter::repeat_n(Cut::AnswerAfter(0), 20)).await;
        let told = Shell::at(&deaf.base()).fails(1, &["kill", "main", "--sid", "s-2"]);
        let (_, key) = told.rsplit_once("--idempotency-key ").unwrap();
        let key = key.split(|c: char| c == ',' || c.is_whitespace()).next().unwrap();
        let repeated = Shell::at(&stage.server.base).json(&["kill", "main", "--sid", "s-2", "--idempotency-key", key]);
        assert_eq!(repeated["sessions_ended"], 1, "the first receipt is given again");
        assert_eq!(stage.admin.items("/v1/issuers/main/logouts").await.len(), 2);
    }

    async fn a_stream_that_breaks_off_is_taken_up_where_it_stopped(database) {
        let stage = Stage::set(database).await;
        let clients = ["a", "b", "c"];
        let mut parties = Vec::new();
        for client in clients {
            parties.push(stage.party(client, json!({})).await);
        }
        stage.login("s-1", "alice", &clients).await;
        let receipt = stage.logout(json!({"sid": "s-1"})).await;
        stage.settled(&receipt["id"]).await;
        // Enough for the head of the answer and the first event, not for the second.
        let proxy = Proxy::open(&stage.server.base, [Cut::AnswerAfter(900), Cut::AnswerAfter(0)]).await;
        let ran = Shell::at(&proxy.base()).run(&["logout", "watch", "main", receipt["id"].as_str().unwrap(), "--json"]);
        assert_eq!(ran.status, 0, "{ran:?}");
        assert_eq!(ran.err.matches("taking it up again").count(), 2, "{ran:?}");
        let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut told: Vec<_> = lines.iter().filter_map(|line| line["client_id"].as_str()).collect();
        told.sort_unstable();
        assert_eq!(told, clients, "each once: {ran:?}");
        assert_eq!(lines.last().unwrap()["state"], "settled");
    }

    async fn who_may_not_is_told_what_it_takes_and_what_there_is(database) {
        let stage = Stage::set(database).await;
        let shell = Shell::at(&stage.server.base);
        let token = async |body: Value| stage.admin.mint(body).await.token().to_owned();
        let auditor = Shell::at(&stage.server.base).with("LOGOUTD_TOKEN", &token(json!({"role": "auditor"})).await);
        let told = auditor.fails(1, &["kill", "main", "--sid", "s"]);
        assert!(told.contains("403") && told.contains("this needs one of the roles provider, operator, admin"), "{told}");
        let provider = Shell::at(&stage.server.base).with("LOGOUTD_TOKEN", &token(json!({"role": "provider", "issuer": "main"})).await);
        let told = provider.fails(1, &["kill", "main", "--everyone", "--yes"]);
        assert!(told.contains("may_mass_kill"), "{told}");
        for elsewhere in ["second", "nowhere"] {
            let told = provider.fails(1, &["session", "list", elsewhere]);
            assert!(told.contains("this token is for the issuer main alone"), "{told}");
        }
        let told = shell.fails(1, &["session", "list", "nowhere"]);
        assert!(told.contains("404") && told.contains("registered are: main"), "{told}");
        let told = shell.fails(1, &["client", "show", "main", "none"]);
        assert!(told.contains("logoutd client list"), "{told}");
        let told = shell.fails(1, &["token", "create", "--role", "provider"]);
        assert!(told.contains("422") && told.contains("/issuer: must be said for the role provider"), "{told}");
        let told = shell.fails(2, &["client", "delete", "main", "..", "--yes"]);
        assert!(told.contains("cannot stand in a path"), "{told}");
        assert_eq!(rows(&shell.done(&["issuer", "list"])).len(), 1, "what looks like a step up is none");
        let file = file(database, "token", &json!(null));
        std::fs::write(&file, format!("{ADMIN_TOKEN}\n")).unwrap();
        let by_file = Shell::at(&stage.server.base).with("LOGOUTD_TOKEN", "").with("LOGOUTD_TOKEN_FILE", file.to_str().unwrap());
        assert_eq!(rows(&by_file.done(&["issuer", "list"])).len(), 1);
    }

    async fn a_list_is_followed_as_far_as_it_is_wanted(database) {
        let stage = Stage::set(database).await;
        let sessions: Vec<_> = (0..620).map(|n| json!({"sid": format!("s-{n}"), "sub": "alice"})).collect();
        stage.provider.post("/v1/issuers/main/sessions", json!({"sessions": sessions})).await.expect(200);
        let shell = Shell::at(&stage.server.base);
        let all = shell.json(&["session", "list", "main"]);
        let sids: std::collections::BTreeSet<_> = all["items"].as_array().unwrap().iter().map(|item| item["sid"].as_str().unwrap()).collect();
        assert!(sids.len() == 620 && all["next"].is_null(), "{} {}", sids.len(), all["next"]);
        let some = shell.json(&["session", "list", "main", "--sub", "alice", "--limit", "510"]);
        assert!(some["items"].as_array().unwrap().len() == 510 && some["next"].is_string());
        let ran = shell.run(&["session", "list", "main", "--limit", "3"]);
        assert!(rows(&ran.out).len() == 3 && ran.err.contains("--limit"), "{ran:?}");
    }

    async fn a_name_that_is_misspelt_does_not_read_like_done(database) {
        let stage = Stage::set(database).await;
        let _wiki = stage.party("wiki", json!({})).await;
        let shell = Shell::at(&stage.server.base);
        stage.login("s-1", "alice", &["wiki", "mail"]).await;
        let there = "no client nope is registered at main (there are: wiki)";
        for wrong in [
            &["kill", "main", "--client", "nope", "--yes"][..],
            &["kill", "main", "--client", "nope", "--dry-run"],
            &["kill", "main", "--sub", "alice", "--client", "nope"],
            &["kill", "main", "--everyone", "--except-client", "nope", "--yes"],
            &["cut-off", "order", "main", "--client", "nope", "--yes"],
        ] {
            let told = shell.fails(1, wrong);
            assert!(told.contains(there), "{wrong:?}: {told}");
        }
        assert!(stage.admin.items("/v1/issuers/main/logouts").await.is_empty() && stage.admin.items("/v1/issuers/main/cut-offs").await.is_empty());
        for (by, name) in [("--sub", "sub=alcie"), ("--sid", "sid=nope"), ("--device", "device=none")] {
            let value = name.split_once('=').unwrap().1;
            let ran = shell.run(&["kill", "main", by, value, "--yes"]);
            let nobody = format!("nobody was logged out: no live session, token or part of {name} is known at main");
            assert!(ran.status == 0 && ran.err.contains(&nobody), "{ran:?}");
            let ran = shell.run(&["kill", "main", by, value, "--dry-run"]);
            assert!(ran.status == 0 && ran.err.contains("nobody would be logged out"), "{ran:?}");
        }
        assert!(shell.done(&["status", "main", "--sub", "alcie"]).starts_with("alcie is not known here"));
        let ran = shell.run(&["token", "create", "--role", "client", "--issuer", "main", "--client-id", "nope"]);
        assert!(ran.status == 0 && ran.out.starts_with("ldt_") && ran.err.contains("no client nope is registered at main yet (there are: wiki)"), "{ran:?}");

        // People are still in where a client was deleted.
        stage.register("mail", "http://127.0.0.1:1/", json!({})).await;
        stage.login("s-2", "bob", &["mail"]).await;
        shell.done(&["client", "delete", "main", "mail", "--yes"]);
        let ran = shell.run(&["kill", "main", "--client", "mail", "--yes", "--json"]);
        let receipt: Value = serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        assert!(receipt["participations_ended"] == 2 && !ran.err.contains("nobody"), "{ran:?}");
        // Who ends something hears nothing of nobody.
        let ran = shell.run(&["kill", "main", "--sub", "alice"]);
        assert!(ran.status == 0 && !ran.err.contains("nobody"), "{ran:?}");
        for by in [["--sub", "alice"], ["--sid", "s-1"]] {
            let ran = shell.run(&["kill", "main", by[0], by[1]]);
            assert!(ran.err.contains("any more; the last one ended at 20") && !ran.err.contains("spelt"), "{ran:?}");
        }
    }

    async fn whoever_says_too_little_is_told_what_there_is_to_say_and_never_to_take_everybody(database) {
        let stage = Stage::set(database).await;
        let shell = Shell::at(&stage.server.base);
        let told = shell.fails(2, &["cut-off", "order", "main"]);
        assert!(told.contains("say exactly one of: --sub, --client, --sub --client, --sid, --everyone") && !told.contains("required"), "{told}");
        let told = shell.fails(2, &["denylist", "add", "main", "--expires-at", "2h"]);
        assert!(told.contains("say exactly one of: --jti, --sid") && !told.contains("required"), "{told}");
        // The hint is for who goes on.
        let told = shell.fails(2, &["kill", "main", "--everyone"]);
        assert!(!told.contains("hint"), "{told}");
        let ran = shell.run(&["kill", "main", "--everyone", "--yes"]);
        assert!(ran.status == 0 && ran.err.contains("hint: --note"), "{ran:?}");
    }

    async fn a_gap_is_opened_after_a_question_and_says_how_it_is_closed(database) {
        let stage = Stage::set(database).await;
        let shell = Shell::at(&stage.server.base);
        stage.login("s-1", "alice", &["wiki"]).await;
        stage.server.advance(Duration::from_secs(5));
        let told = shell.fails(2, &["gap", "open", "main", "--since", "2h"]);
        assert!(told.contains("inactive") && told.contains("--yes"), "{told}");
        assert!(stage.admin.items("/v1/issuers/main/gaps").await.is_empty());
        let ran = shell.run(&["gap", "open", "main", "--since", "2h", "--yes"]);
        let gap = stage.admin.items("/v1/issuers/main/gaps").await.remove(0);
        let close = ["gap", "close", "main", gap["id"].as_str().unwrap()];
        assert!(ran.status == 0 && ran.err.contains(&format!("logoutd {}", close.join(" "))), "{ran:?}");
        let asked = shell.fails(2, &close);
        assert!(asked.contains("good again") && asked.contains("1 live session among them") && asked.contains("--yes"), "{asked}");
        assert!(stage.admin.items("/v1/issuers/main/gaps").await[0]["closed_at"].is_null());
        shell.done(&[&close[..], &["--yes"]].concat());
        assert_eq!(stage.admin.items("/v1/issuers/main/gaps").await[0]["closed_by"], "operator");
    }

    async fn reconciling_says_of_each_gap_whether_it_is_closed_and_why_not(database) {
        let stage = Stage::set(database).await;
        let shell = Shell::at(&stage.server.base);
        stage.login("s-1", "alice", &["wiki"]).await;
        stage.server.advance(Duration::from_secs(60));
        let list = database.directory().join("live");
        std::fs::write(&list, "s-1\n").unwrap();
        shell.done(&["gap", "open", "main", "--since", "2h", "--yes"]);
        let gap = stage.admin.items("/v1/issuers/main/gaps").await.remove(0)["id"].as_str().unwrap().to_owned();
        let at = |seconds: u64| stage.server.clock.now().minus(Duration::from_secs(seconds)).to_string();
        let reconcile = |as_of: &str| shell.run(&["session", "reconcile", "main", list.to_str().unwrap(), "--as-of", as_of, "--yes"]);
        let early = reconcile(&at(3600));
        let line = early.out.lines().find(|line| line.starts_with(&format!("gap {gap}"))).unwrap_or_default();
        assert!(line.contains(": open: the list was made before the gap's end") && early.err.contains("logoutd gap list main"), "{early:?}");
        let late = reconcile(&at(0));
        let line = late.out.lines().find(|line| line.starts_with(&format!("gap {gap}"))).unwrap_or_default();
        assert!(line.ends_with(": closed") && late.err.is_empty(), "{late:?}");
    }

    async fn whom_relay_alone_knows_is_told_of_by_the_clients_name_and_nobody_is_said_to_be_asked(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let wiki = stage.party("wiki", json!({})).await;
        wiki.trust(&provider.jwks.uri());
        wiki.always(Reply::Status(503));
        assert_eq!(provider.post(&provider.token("wiki", &json!({"sid": "s-1", "sub": "alice"}))).await.status, 200);
        wiki.only_call().await;
        let shell = Shell::at(&stage.server.base);
        let status = shell.done(&["status", "main", "--sub", "alice"]);
        assert!(status.starts_with("alice is not known here") && status.lines().any(|line| line.starts_with("wiki") && line.contains("pending")), "{status}");
        let killed = shell.done(&["kill", "main", "--sid", "s-there"]);
        assert!(killed.contains("the provider was not asked to end any; it may have some"), "{killed}");
        let rehearsed = shell.done(&["kill", "main", "--everyone", "--dry-run"]);
        assert!(rehearsed.contains("would not be asked to end any; it may have some"), "{rehearsed}");
    }

    async fn what_is_done_at_night_has_a_command(database) {
        let stage = Stage::set(database).await;
        let shell = Shell::at(&stage.server.base);
        let _wiki = stage.party("wiki", json!({})).await;

        // Alarms.
        assert_eq!(shell.json(&["alarm", "list"]), stage.admin.get("/v1/alarms").await.expect(200));
        let listed = shell.done(&["alarm", "list", "--state", "open", "--kind", "lane_parked", "--issuer", "main"]);
        assert!(listed.starts_with("KIND") && rows(&listed).is_empty(), "{listed}");
        assert!(shell.fails(1, &["alarm", "test"]).contains("alarms.url"), "nobody is told of alarms here");

        // What the provider does not list ends, and is asked about where it is more than one.
        for sid in ["s-1", "s-2", "s-3"] {
            stage.login(sid, "alice", &["wiki"]).await;
        }
        stage.server.advance(Duration::from_secs(60));
        let (as_of, list) = (stage.server.clock.now().to_string(), database.directory().join("live"));
        std::fs::write(&list, "s-3\n\n").unwrap();
        let reconcile = ["session", "reconcile", "main", list.to_str().unwrap(), "--as-of", &as_of];
        assert!(shell.done(&[&reconcile[..], &["--dry-run"]].concat()).contains("end 2 sessions"));
        assert!(shell.fails(2, &reconcile).contains("--yes"));
        let unsaid = shell.json(&["session", "reconcile", "main", list.to_str().unwrap()]);
        assert_eq!(unsaid["sessions_ended"], 0, "what is younger than the list is spared");
        // A query that failed leaves an empty list behind.
        let empty = database.directory().join("empty");
        std::fs::write(&empty, "\n \n").unwrap();
        let nobody = ["session", "reconcile", "main", empty.to_str().unwrap(), "--as-of", &as_of];
        for more in [&["--yes"][..], &["--dry-run"], &[]] {
            assert!(shell.fails(2, &[&nobody[..], more].concat()).contains("--nobody-lives"), "{more:?}");
        }
        assert!(shell.fails(2, &[&reconcile[..], &["--nobody-lives", "--yes"]].concat()).contains("leave one of them out"));
        assert_eq!(stage.admin.items("/v1/issuers/main/sessions?state=live").await.len(), 3);
        let said = [&nobody[..], &["--nobody-lives"]].concat();
        assert!(shell.done(&[&said[..], &["--dry-run"]].concat()).contains("end 3 sessions"));
        assert!(shell.fails(2, &said).contains("--yes"));

        assert!(shell.done(&[&reconcile[..], &["--yes"]].concat()).contains("2 sessions"));
        let live = stage.admin.items("/v1/issuers/main/sessions?state=live").await;
        assert!(live.len() == 1 && live[0]["sid"] == "s-3", "{live:?}");
        assert!(shell.fails(2, &said).contains("--yes"), "a list of nobody is asked about, however few it ends");

        // Erasure.
        assert!(shell.fails(1, &["subject", "erase", "main", "--sub", "alice", "--yes"]).contains("409"));
        let killed = shell.json(&["kill", "main", "--sub", "alice", "--revoke-offline-access"]);
        settled(&stage, &killed["id"]).await;
        assert!(shell.fails(2, &["subject", "erase", "main", "--sub", "alice"]).contains("--yes"));
        let erased = shell.done(&["subject", "erase", "main", "--sub", "alice", "--yes"]);
        assert!(erased.lines().any(|line| line.split_whitespace().eq(["sessions", "3"])), "{erased}");
        assert!(shell.done(&["status", "main", "--sub", "alice"]).starts_with("alice is not known here"));
        let ran = shell.run(&["subject", "erase", "main", "--sub", "alcie", "--yes"]);
        assert!(ran.status == 0 && ran.err.contains("nothing of alcie is kept at main"), "{ran:?}");

        // Keys.
        let key = async |state: &str| {
            let keys = stage.admin.items("/v1/issuers/main/keys").await;
            keys.iter().find(|key| key["state"] == state).unwrap()["kid"].as_str().unwrap().to_owned()
        };
        assert!(shell.fails(1, &["keys", "drop", "main", &key("active").await, "--yes"]).contains("rotate first"));
        shell.done(&["keys", "rotate", "main"]);
        let next = key("next").await;
        assert!(shell.fails(2, &["keys", "drop", "main", &next]).contains("--yes"));
        assert_eq!(shell.done(&["keys", "delete", "main", &next, "--yes"]), "dropped\n");
        assert_eq!(key("withdrawn").await, next);
        assert!(shell.fails(1, &["keys", "drop", "main", "nope", "--yes"]).contains("logoutd keys list"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_stops_watching_leaves_the_logout_going_on() {
    use std::io::BufRead as _;
    let database = Database::fresh(Engine::Sqlite).await.unwrap();
    let stage = Stage::set(&database).await;
    let (_wiki, _mail) = (stage.party("wiki", json!({})).await, stage.party("mail", json!({})).await);
    let shell = Shell::at(&stage.server.base);
    shell.done(&["client", "pause", "main", "mail"]);
    stage.login("s-1", "alice", &["wiki", "mail"]).await;
    let mut watching = shell.begin(&["kill", "main", "--sid", "s-1", "--watch"]);
    let mut line = String::new();
    std::io::BufReader::new(watching.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("wiki (s-1) delivered"), "{line}");
    assert!(Command::new("kill").args(["-INT", &watching.id().to_string()]).status().unwrap().success());
    let ran = Ran::from(watching.wait_with_output().unwrap());
    let id = stage.admin.items("/v1/issuers/main/logouts").await[0]["id"].clone();
    let again = format!("the logout goes on; follow it again with: logoutd logout watch main {}", id.as_str().unwrap());
    assert!(ran.status == 1 && ran.err.contains(&again), "{ran:?}");
    shell.done(&["client", "resume", "main", "mail"]);
    assert_eq!(settled(&stage, &id).await["deliveries"]["delivered"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_who_has_read_enough_is_no_failure() {
    let database = Database::fresh(Engine::Sqlite).await.unwrap();
    let stage = Stage::set(&database).await;
    let (_wiki, _mail) = (stage.party("wiki", json!({})).await, stage.party("mail", json!({})).await);
    stage.login("s-1", "alice", &["wiki", "mail"]).await;
    let shell = Shell::at(&stage.server.base);
    let unread = |line: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Ran::from(shell.command(line).stdout(writer).output().unwrap())
    };
    for line in [
        &["session", "list", "main"][..],
        &["session", "list", "main", "--json"],
        &["audit", "export"],
        &["check-config"],
        &["completions", "bash"],
    ] {
        let ran = unread(line);
        assert!(ran.status == 0 && ran.err.is_empty(), "{line:?}: {ran:?}");
    }
    // What a status says it says all the same.
    let mistaken =
        shell.command(&["check-config", "--json"]).env("LOGOUTD_HTTP__STREAMS_MAX", "many").stdout(Stdio::null()).output().unwrap();
    assert_eq!(Ran::from(mistaken).status, 1);
    shell.done(&["client", "pause", "main", "mail"]);
    let ran = unread(&["kill", "main", "--sid", "s-1", "--watch"]);
    assert!(ran.status == 1 && ran.err.contains("follow it again with"), "{ran:?}");
    assert_eq!(stage.admin.items("/v1/issuers/main/logouts").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_is_killed_from_a_file_and_never_shown() {
    let database = Database::fresh(Engine::Sqlite).await.unwrap();
    let stage = Stage::set(&database).await;
    stage.login("s-1", "alice", &["wiki"]).await;
    let token = "a-refresh-token-nobody-may-see";
    let body = json!({"sid": "s-1", "client_id": "wiki", "token": token});
    assert!(stage.provider.post("/v1/issuers/main/refresh-tokens", body).await.is_success());
    let path = database.directory().join("token");
    std::fs::write(&path, format!("{token}\n")).unwrap();
    let shell = Shell::at(&stage.server.base);
    let ran = shell.run(&["kill", "main", "--refresh-token-file", path.to_str().unwrap(), "--reason", "compromise"]);
    assert!(ran.status == 0 && ran.out.contains("1 session, ") && ran.out.contains("1 refresh token revoked"), "{ran:?}");
    assert!(!ran.out.contains(token) && !ran.err.contains(token), "{ran:?}");
}

/// A server that answers every request with these octets.
async fn answering(answer: Vec<u8>) -> (String, tokio::task::JoinSet<()>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 65_536];
            drop(stream.read(&mut request).await);
            drop(stream.write_all(&answer).await);
        }
    });
    (base, tasks)
}

fn http(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_answer_is_printed_harmlessly() {
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{7f}";
    let obeyed = |text: &str| text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
    let list = json!({"items": [{"sid": evil, "sub": format!("a\n{evil}{}", "x".repeat(1_000_000)), "state": [evil], "device": {"label": {evil: evil}}}], "next": null});
    // Written by hand, so that what JSON lets through comes through.
    let raw = list.to_string().replace("\\u007f", "\u{7f}");
    let (base, _tasks) = answering(http("200 OK", &raw)).await;
    let ran = Shell::at(&base).run(&["session", "list", "main"]);
    assert!(ran.status == 0 && !obeyed(&ran.out) && ran.out.lines().count() == 2 && ran.out.len() < 10_000, "{ran:?}");
    let ran = Shell::at(&base).run(&["session", "list", "main", "--json"]);
    assert!(ran.status == 0 && !obeyed(&ran.out));
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap(), list, "for a program it says the same");

    let problem = json!({"title": evil, "detail": "d".repeat(1_000_000), "errors": [{"pointer": evil, "detail": evil}]}).to_string();
    let (base, _tasks) = answering(http("422 Unprocessable Content", &problem)).await;
    let told = Shell::at(&base).fails(1, &["session", "list", "main"]);
    assert!(!obeyed(&told) && told.len() < 5_000, "{told:?}");

    for nonsense in ["[]", "{\"items\":{}}", "{\"items\":[1,null,[]],\"next\":7}", "null", "<html>", "{\"items\":[],\"next\":\"again\"}"] {
        let (base, _tasks) = answering(http("200 OK", nonsense)).await;
        for line in [
            &["session", "list", "main"][..],
            &["status", "main", "--sub", "a"],
            &["logout", "show", "main", "x"],
            &["keys", "check", "main"],
        ] {
            let ran = Shell::at(&base).run(line);
            assert!(matches!(ran.status, 0 | 1) && !ran.err.contains("panicked"), "{nonsense} {line:?}: {ran:?}");
        }
    }
    let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    endless.resize(40 << 20, b'[');
    let (base, _tasks) = answering(endless).await;
    let told = Shell::at(&base).fails(1, &["session", "list", "main"]);
    assert!(told.contains("octets"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_looked_for_where_the_message_says() {
    let told = Shell::at("http://127.0.0.1:1").fails(1, &["session", "list", "main"]);
    assert!(
        told.contains("http://127.0.0.1:1 could not be asked") && told.contains("is it running?") && told.contains("LOGOUTD_URL"),
        "{told}"
    );
    let told = Shell::at("http://nowhere.invalid").fails(1, &["session", "list", "main", "--url", "http://127.0.0.1:2"]);
    assert!(told.contains("http://127.0.0.1:2"), "{told}");
    let told = Shell::at("http://nowhere.invalid").fails(2, &["session", "list", "main"]);
    assert!(told.contains("would show the API token to the network: use https"), "{told}");
    // Both sides speak, and not the same.
    let (base, _tasks) = answering(http("400 Bad Request", "")).await;
    let told = Shell::at(&base.replace("http://", "https://")).fails(1, &["session", "list", "main"]);
    assert!(told.contains("not by TLS: is it http://") && !told.contains("is it running?"), "{told}");
    // What a server that wants TLS says of a request in clear: an alert (RFC 8446 6).
    let (base, _tasks) = answering(b"\x15\x03\x03\x00\x02\x02\x32".to_vec()).await;
    let told = Shell::at(&base).fails(1, &["session", "list", "main"]);
    assert!(told.contains("not by HTTP: is it https://"), "{told}");
    // A logout that was never sent was not taken, and nothing says otherwise.
    let told = Shell::at("http://127.0.0.1:1").fails(1, &["kill", "main", "--sid", "s"]);
    assert!(told.contains("is it running?") && !told.contains("nobody knows"), "{told}");
    let (base, _tasks) =
        answering(b"HTTP/1.1 308 Permanent Redirect\r\nlocation: https://there\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec())
            .await;
    let told = Shell::at(&base).fails(1, &["session", "list", "main"]);
    assert!(told.contains("redirects to https://there"), "{told}");
}

#[test]
fn every_shell_is_given_completions_and_every_command_has_help() {
    let shell = Shell { variables: BTreeMap::new() };
    for name in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(shell.done(&["completions", name]).contains("refresh-token-file"), "{name}");
    }
    assert!(shell.done(&["kill", "--help"]).contains("Examples:"));
    let nouns = shell.done(&["--help"]);
    for noun in [
        "status",
        "kill",
        "logout",
        "session",
        "subject",
        "alarm",
        "delivery",
        "issuer",
        "client",
        "cut-off",
        "denylist",
        "token",
        "keys",
        "completions",
    ] {
        assert!(nouns.lines().any(|line| line.trim_start().starts_with(&format!("{noun} "))), "{noun}: {nouns}");
        let help = shell.done(&[noun, "--help"]);
        assert!(noun == "completions" || help.contains("LOGOUTD_TOKEN"), "{noun}: {help}");
    }
}
