//! The configuration as whoever writes it meets it: `check-config`, the commented example, its schema, and how the server is deployed with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use logoutd::config::{FILE_SUFFIX, FROM_FILES, REMOVABLE};
use serde_json::{Value, json};

use crate::harness::database::{Database, Engine};
use crate::harness::process::Process;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn example(name: &str) -> String {
    fs::read_to_string(examples().join(name)).unwrap()
}

fn logoutd(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_logoutd")).args(arguments).env_clear().envs(variables.iter().copied()).output().unwrap()
}

fn text(octets: &[u8]) -> &str {
    str::from_utf8(octets).unwrap()
}

/// Checks this text as a file of the name `logoutd.toml`; its status, and what is answered in JSON.
fn checked(file: &str, variables: &[(&str, &str)]) -> (Option<i32>, Value) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("logoutd.toml");
    fs::write(&path, file.replace("DIR", directory.path().to_str().unwrap())).unwrap();
    for (name, content, mode) in [("secret", "a-secret-of-a-file", 0o600), ("empty", "\n", 0o600)] {
        fs::write(directory.path().join(name), content).unwrap();
        fs::set_permissions(directory.path().join(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let output = logoutd(&["check-config", "--json", "--config", path.to_str().unwrap()], variables);
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr))))
}

/// Every mistake as `setting:line: why`, lines of the file and names of variables alike.
fn mistakes(file: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let (status, answer) = checked(file, variables);
    assert_eq!((status, &answer["ok"]), (Some(1), &json!(false)), "{answer:#}");
    let place = |setting: &Value| {
        let source = &setting["source"];
        let at = if source["line"].is_null() { source["name"].as_str().unwrap_or("-").to_owned() } else { source["line"].to_string() };
        format!("{}:{at}", setting["setting"].as_str().unwrap())
    };
    let one = |mistake: &Value| {
        let settings: Vec<_> = mistake["settings"].as_array().unwrap().iter().map(place).collect();
        format!("{}: {}", settings.join(" and "), mistake["why"].as_str().unwrap())
    };
    answer["mistakes"].as_array().unwrap().iter().map(one).collect()
}

fn schema() -> Value {
    let output = logoutd(&["check-config", "--schema"], &[]);
    assert_eq!(output.status.code(), Some(0));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The settings of a schema by their paths, each with its schema; a name that somebody thinks of is `*`.
fn settings(table: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
    let inner = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for (name, member) in table["properties"].as_object().into_iter().flatten() {
        match member["type"].as_str() {
            Some("object") => settings(member, &inner(name), found),
            _ if inner(name) == "issuers" => {}
            _ => drop(found.insert(inner(name), member.clone())),
        }
    }
    if table["additionalProperties"].is_object() {
        settings(&table["additionalProperties"], &inner("*"), found);
    }
}

fn settings_of_the_schema() -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    settings(&schema(), "", &mut found);
    assert!(found.contains_key("http.listen") && found.contains_key("check.*.issuer"), "{found:?}");
    found
}

/// A line of the example that says a setting, or would.
#[derive(Debug)]
struct Line {
    path: String,
    value: toml::Value,
    kind: LineKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineKind {
    Set,
    Default,
    NoDefault,
}

/// Every setting in the example, before what is declared.
fn lines_of_the_example() -> Vec<Line> {
    let (mut table, mut found) = (String::new(), Vec::new());
    for line in example("logoutd.toml").lines().take_while(|line| !line.starts_with("[[")) {
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_end_matches(']').replace("check.api", "check.*") + ".";
        }
        let (setting, commented) = line.strip_prefix('#').map_or((line, false), |rest| (rest, true));
        let is_setting = setting.starts_with(|c: char| c.is_ascii_lowercase()) && setting.contains(" = ");
        if !is_setting {
            continue;
        }
        let parsed: toml::Table = setting.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        let kind = match (commented, line.ends_with("# no default")) {
            (false, _) => LineKind::Set,
            (true, true) => LineKind::NoDefault,
            (true, false) => LineKind::Default,
        };
        found.extend(parsed.into_iter().map(|(name, value)| Line { path: format!("{table}{name}"), value, kind }));
    }
    found
}

#[test]
fn the_example_has_every_setting_and_each_default_it_names_is_the_default() {
    let (schema, lines) = (settings_of_the_schema(), lines_of_the_example());
    let said: BTreeSet<_> = lines.iter().map(|line| &line.path).collect();
    let missing: Vec<_> = schema.keys().filter(|path| !said.contains(path)).collect();
    assert!(missing.is_empty(), "examples/logoutd.toml lacks these settings: {missing:?}");
    assert_eq!(said.len(), lines.len(), "a setting is said twice");
    for Line { path, value, kind } in lines {
        let setting = schema.get(&path).unwrap_or_else(|| panic!("examples/logoutd.toml says {path}, which is no setting"));
        let value = serde_json::to_value(value).unwrap();
        match (kind, setting.get("default")) {
            (LineKind::Default, Some(default)) => assert_eq!(&value, default, "the default of {path}"),
            (LineKind::Default, None) => panic!("{path} has no default: end its line with `# no default`"),
            (LineKind::NoDefault, default) => assert_eq!(default, None, "{path} has a default"),
            (LineKind::Set, _) => {}
        }
        let is_of_its_type = match setting["type"].as_str().unwrap() {
            "integer" => value.is_i64(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            _ => value.is_string(),
        };
        assert!(is_of_its_type, "{path} is {setting}");
    }
}

#[test]
fn the_example_works_as_it_stands_and_says_the_same_with_every_default_written_out() {
    let file = example("logoutd.toml");
    let (status, as_it_stands) = checked(&file, &[]);
    assert_eq!(status, Some(0), "{as_it_stands:#}");
    let is_default = |line: &str| {
        line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()) && !rest.ends_with("# no default"))
    };
    let written_out: Vec<_> = file.lines().map(|line| if is_default(line) { &line[1..] } else { line }).collect();
    let (status, written_out) = checked(&written_out.join("\n"), &[]);
    assert_eq!(status, Some(0), "{written_out:#}");
    let values = |answer: &Value| -> Vec<Value> {
        answer["settings"].as_array().unwrap().iter().map(|setting| json!([setting["setting"], setting["value"]])).collect()
    };
    assert_eq!(values(&written_out), values(&as_it_stands));
    let by_default = written_out["settings"].as_array().unwrap().iter().filter(|setting| setting["source"]["kind"] == "default");
    assert!(by_default.clone().all(|setting| setting["value"] == "(none)"), "{:#?}", by_default.collect::<Vec<_>>());
    assert!(values(&as_it_stands).contains(&json!(["issuers[main]", "https://id.example.com, with 2 clients"])));
}

#[test]
fn the_schema_beside_the_example_is_the_one_of_this_version() {
    let kept: Value = serde_json::from_str(&example("logoutd.schema.json")).unwrap();
    assert!(kept == schema(), "write it anew: logoutd check-config --schema > examples/logoutd.schema.json");
    assert!(example("logoutd.toml").starts_with("#:schema ./logoutd.schema.json\n"));
}

#[test]
fn every_secret_of_a_registration_can_be_kept_in_a_file_and_no_member_s_own_name_ends_like_that() {
    let document = serde_json::to_value(logoutd::app::routes().document()).unwrap();
    let mut members = Vec::new();
    for body in [
        "NewIssuer",
        "ClientMetadata",
        "DeliveryMetadata",
        "TlsMetadata",
        "TokenTerms",
        "ProviderLogoutTerms",
        "AuthTerms",
        "EndpointTerms",
        "UpstreamIntrospectionTerms",
    ] {
        let properties = document["components"]["schemas"][body]["properties"].as_object().unwrap_or_else(|| panic!("{body}"));
        members.extend(properties.iter().map(|(name, member)| (name.clone(), member["writeOnly"] == json!(true))));
    }
    assert!(members.iter().all(|(name, _)| !name.ends_with(FILE_SUFFIX)));
    let secrets: BTreeSet<_> = members.iter().filter(|(_, secret)| *secret).map(|(name, _)| name.as_str()).collect();
    let may_be_files: BTreeSet<_> = FROM_FILES.into_iter().chain(["headers"]).collect();
    assert!(secrets.len() > 4 && secrets.is_subset(&may_be_files), "{secrets:?}");
    assert!(REMOVABLE.iter().all(|name| *name == "headers" || secrets.contains(name)));
}

const DECLARED: &str = r#"
[[issuers]]
id = "main"
issuer = "https://id.example.com"
sesion_max_age = 60
expiry = "soon"
allow_networks = ["10.0.0.0/8"]

[[issuers.clients]]
client_id = "wiki"
backchannel_logout_uri = "https://wiki.example.com/l"
client_secret = 12345678
[issuers.clients.delivery]
timeout_sm = 5
claims = "all"

[[issuers.clients]]
client_id = "wiki"
client_secret_file = "DIR/none"
client_secret = "x"
"#;

#[test]
fn every_mistake_is_told_with_its_line_or_its_variable_also_in_what_is_declared() {
    let file = format!("colour = \"red\"\n[http]\nlisten = 8080\nbody_byte_max = 2048\n{DECLARED}");
    let found = mistakes(&file, &[("LOGOUTD_LOG__LEVLE", "info"), ("LOGOUTD_TOKEN__LIFETIME_S", "1"), ("LOGOUTD_ISSUERS__MAIN", "x")]);
    let expected = [
        "colour:1: is not a setting",
        "http.listen:3: must be a string, not a whole number",
        "http.body_byte_max:4: is not a setting: did you mean http.body_bytes_max?",
        "log.levle:LOGOUTD_LOG__LEVLE: is not a setting: did you mean LOGOUTD_LOG__LEVEL?",
        "token.lifetime_s:LOGOUTD_TOKEN__LIFETIME_S: must be 10 to 120, not 1",
        "issuers.main:LOGOUTD_ISSUERS__MAIN: is not a setting: issuers and clients are declared in the file alone",
        "issuers[main].sesion_max_age:9: is not a member of a registration: did you mean session_max_age?",
        "issuers[main].expiry:10: an expiry must be one of none absolute authoritative",
        "issuers[main].allow_networks:11: must not except 10.0.0.0/8",
        "issuers[main].clients[wiki].client_secret:16: must be a string",
        "issuers[main].clients[wiki].delivery.timeout_sm:18: is not a member of a registration: did you mean timeout_ms?",
        "issuers[main].clients[wiki].delivery.claims:19: claims must be one of both sid sub",
        "issuers[main].clients[wiki].client_secret_file:23: ",
        "issuers[main].clients[wiki].client_secret:24 and issuers[main].clients[wiki].client_secret_file:23: both are set",
        "issuers[main].clients[wiki].client_id:14 and issuers[main].clients[wiki].client_id:22: both are \"wiki\"",
    ];
    for wanted in expected {
        assert!(found.iter().any(|mistake| mistake.starts_with(wanted)), "{wanted}\nin {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(!found.concat().contains("12345678"), "a secret is not repeated");
}

#[test]
fn what_is_called_from_here_is_judged_as_at_the_start_and_the_setting_that_lets_it_be_called_is_named() {
    let calls = "[telemetry]\notlp_endpoint = \"https://127.0.0.1:4318/v1/traces\"\n[alarms]\nurl = \"https://10.0.0.1/x\"\nsecret = \"0123456789-0123456789-0123\"\n";
    assert_eq!(
        mistakes(calls, &[]),
        [
            "telemetry.otlp_endpoint:2: must not name 127.0.0.1, which is a loopback address: what is called from here must be named in network.allow, \
             such as \"127.0.0.1/32\"",
            "alarms.url:4: must not name 10.0.0.1, which is a private address: what is called from here must be named in network.allow, such as \"10.0.0.1/32\"",
        ]
    );
    assert_eq!(checked(&format!("[network]\nallow = [\"127.0.0.1\", \"10.0.0.1\"]\n{calls}"), &[]).0, Some(0));
    let metadata = mistakes("[telemetry]\notlp_endpoint = \"https://169.254.169.254/v1/traces\"\n", &[]);
    assert_eq!(metadata, ["telemetry.otlp_endpoint:2: must not name 169.254.169.254, which is a link-local address"]);
}

#[test]
fn while_a_setting_that_judges_is_wrong_the_form_of_what_is_declared_is_looked_at_and_it_is_said_that_more_may_come() {
    let declared =
        "[[issuers]]\nid = \"main\"\nissuer = \"http://id.example.com\"\nwat = 3\n[[issuers.clients]]\nbackchannel_logout_uri = 5\n";
    let found = mistakes(&format!("[delivery]\nlease_ms = 5000\n{declared}"), &[]);
    assert!(found.len() == 3 && found[0].starts_with("delivery.timeout_max_ms:- and delivery.lease_ms:2: "), "{found:#?}");
    assert!(found[0].ends_with("; until this is right, only the form of what is declared was looked at"), "{found:#?}");
    assert!(
        found[1].starts_with("issuers[main].wat:6: ") && found[2].starts_with("issuers[main].clients[1].backchannel_logout_uri:8: "),
        "{found:#?}"
    );
    let alone = mistakes("[delivery]\nlease_ms = 5000\n", &[]);
    assert!(alone.len() == 1 && !alone[0].contains("declared"), "{alone:#?}");
}

#[test]
fn one_member_that_cannot_be_read_hides_no_other_mistake_of_its_registration() {
    let client = |members: &str| {
        format!("[[issuers]]\nid = \"main\"\nissuer = \"https://id.example.com\"\n[[issuers.clients]]\nclient_id = \"wiki\"\n{members}")
    };
    for (members, places) in [
        (
            "backchannel_logout_uri = \"https://wiki.example/l#f\"\nid_token_signed_response_alg = \"HS256\"\n",
            ["backchannel_logout_uri:6", "id_token_signed_response_alg:7"],
        ),
        (
            "backchannel_logout_uri = \"https://wiki.example/l\"\ndelivery.horizon_s = -4\ndelivery.timeout_ms = 999999\n",
            ["delivery.horizon_s:7", "delivery.timeout_ms:8"],
        ),
    ] {
        let found = mistakes(&client(members), &[]);
        let all =
            places.iter().all(|place| found.iter().any(|mistake| mistake.starts_with(&format!("issuers[main].clients[wiki].{place}: "))));
        assert!(all && found.len() == 2, "{found:#?}");
    }
}

#[test]
fn every_wrong_entry_of_a_list_is_told_and_limits_that_limit_nothing_are_refused() {
    let found = mistakes("[network]\nallow = [\"169.254.0.0/16\", \"10.0.0.0/8\", \"fe80::/10\", \"x\"]\n", &[]);
    assert!(found.len() == 1 && ["169.254.0.0/16 is", "fe80::/10 is", "not \"x\""].iter().all(|one| found[0].contains(one)), "{found:#?}");
    for limit in ["connections_per_address", "streams_max"] {
        let found = mistakes(&format!("[http]\nconnections_max = 10\n{limit} = 11\n"), &[]);
        let expected = format!("http.{limit}:3 and http.connections_max:2: there are never so many connections: this limits nothing");
        assert_eq!(found, [expected]);
    }
    assert_eq!(checked("[http]\nconnections_max = 10\n", &[]).0, Some(0), "what was not said follows");
}

#[test]
fn where_the_database_cannot_be_is_told_before_it_is_opened() {
    let found = mistakes("[database]\nurl = \"sqlite://DIR/nowhere/logoutd.db\"\n", &[]);
    assert!(found.len() == 1 && found[0].starts_with("database.url:2: the directory of ") && found[0].contains("make it"), "{found:#?}");
    let key = [("LOGOUTD_SEALING_KEY", "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA")];
    let found = mistakes("[database]\nurl = \"postgres://logoutd:hunter2@db/logoutd?sslmode=nonsense\"\n", &key);
    assert!(found.len() == 1 && found[0].starts_with("database.url:2: ") && found[0].contains("nonsense"), "{found:#?}");
    assert!(!found[0].contains("hunter2"), "{found:#?}");
}

#[test]
fn a_declared_client_is_judged_by_the_rules_of_the_api_and_of_this_deployment() {
    let declared = |network: &str| {
        format!(
            "[network]\nallow = [{network}]\n[[issuers]]\nid = \"main\"\nissuer = \"https://id.example.com\"\n[[issuers.clients]]\nclient_id = \"wiki\"\n\
             backchannel_logout_uri = \"https://10.1.2.3/l\"\ndelivery = {{ allow_networks = [\"10.0.0.0/8\"] }}\n"
        )
    };
    assert_eq!(checked(&declared("\"10.0.0.0/8\""), &[]).0, Some(0));
    let found = mistakes(&declared(""), &[]);
    assert!(found.len() == 1 && found[0].starts_with("issuers[main].clients[wiki].delivery.allow_networks:9: "), "{found:#?}");
    let found = mistakes("[[issuers]]\nid = \"main\"\nissuer = \"http://id.example.com\"\n", &[]);
    assert!(found.len() == 1 && found[0].starts_with("issuers[main].issuer:3: must be an https URL"), "{found:#?}");
    assert_eq!(checked("dev = true\n[[issuers]]\nid = \"main\"\nissuer = \"http://id.example.com\"\n", &[]).0, Some(0));
}

#[test]
fn what_is_not_a_list_of_tables_is_told_apart_from_what_is() {
    let found = mistakes("[issuers.main]\nissuer = \"https://id.example.com\"\n", &[]);
    assert!(found.len() == 1 && found[0].contains("must be [[issuers]], in two pairs of brackets"), "{found:#?}");
    let found = mistakes("[[issuers]]\nissuer = \"https://id.example.com\"\n[issuers.clients]\nclient_id = \"wiki\"\n", &[]);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("issuers[1].clients:3: must be [[issuers.clients]]"), "{found:#?}");
    assert!(found[1].starts_with("issuers[1].id:1: is missing"), "{found:#?}");
    let found =
        mistakes("[[issuers]]\nid = \"a\"\nissuer = \"https://a.example\"\n[[issuers]]\nid = \"b\"\nissuer = \"https://a.example\"\n", &[]);
    assert!(found.len() == 1 && found[0].starts_with("issuers[a].issuer:3 and issuers[b].issuer:6: both are"), "{found:#?}");
}

#[test]
fn files_that_are_named_are_read_and_a_key_that_others_may_read_is_refused() {
    let with = |name: &str| format!("admin_token_file = \"DIR/{name}\"\n");
    assert!(mistakes(&with("none"), &[])[0].starts_with("admin_token_file:1: "));
    assert!(mistakes(&with("empty"), &[])[0].contains("admin_token_file:1: names a file that is empty"));
    assert!(mistakes(&with("secret"), &[])[0].contains("at least 32 characters"));
    let declared = "[[issuers]]\nid = \"main\"\nissuer = \"https://id.example.com\"\nca_pem_file = \"DIR/secret\"\n";
    let found = mistakes(declared, &[]);
    assert!(found.len() == 1 && found[0].starts_with("issuers[main].ca_pem:4: "), "{found:#?}");
    let file = "[database]\nurl = \"sqlite://DIR/secret\"\n";
    let directory = tempfile::tempdir().unwrap();
    let (path, key) = (directory.path().join("logoutd.toml"), directory.path().join("secret.key"));
    fs::write(&path, file.replace("DIR", directory.path().to_str().unwrap())).unwrap();
    fs::write(&key, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let output = logoutd(&["check-config", "--config", path.to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("may be read by others"), "{}", text(&output.stderr));
}

#[test]
fn neither_settings_nor_mistakes_nor_the_log_tell_a_secret_that_is_declared() {
    let file = "[[issuers]]\nid = \"main\"\nissuer = \"https://id.example.com\"\n[issuers.revocation]\nendpoint = \"https://id.example.com/r\"\nclient_id = \"l\"\n\
        client_secret = \"hush-hush-one\"\n[[issuers.clients]]\nclient_id = \"wiki\"\nclient_secret_file = \"DIR/secret\"\ndelivery.headers = { \"x-key\" = \"hush-hush-two\" }\n";
    for (file, status) in [(file.to_owned(), 0), (file.replace("\"wiki\"", "5"), 1)] {
        let (found, answer) = checked(&file, &[]);
        assert_eq!(found, Some(status), "{answer:#}");
        let shown = answer.to_string();
        assert!(["hush-hush-one", "hush-hush-two", "a-secret-of-a-file"].iter().all(|secret| !shown.contains(secret)), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_is_served_and_its_health_check_believed() {
    let database = Database::fresh(Engine::Sqlite).await.unwrap();
    let config = database.directory().join("logoutd.toml");
    // A key of 2048 bits takes a debug build long.
    fs::write(
        &config,
        example("logoutd.toml")
            .replace("[\"RS256\"]", "[\"ES256\"]")
            .replace("\nclient_id", "\nid_token_signed_response_alg = \"ES256\"\nclient_id"),
    )
    .unwrap();
    let own = [("LOGOUTD_DELIVERY__TIMEOUT_MAX_MS", "3000"), ("LOGOUTD_DELIVERY__LEASE_MS", "4000")];
    let mut process = Process::serve(&database, &[&own[..], &[("LOGOUTD_CONFIG", config.to_str().unwrap())]].concat());
    let admin = process.admin().await;
    assert_eq!(admin.get("/v1/issuers/main/clients/wiki").await.expect(200)["declared"], json!(true));
    let base = process.base().await;
    let health = health_check();
    let ask = |port: &str| Command::new(&health[0]).args([&health[1], &health[2].replace("8080", port)]).output().unwrap().status.success();
    let port = base.rsplit(':').next().unwrap();
    crate::harness::until("it is ready", || async { ask(port).then_some(()) }).await;
    process.terminate();
    crate::harness::until("it is gone", || async { (!ask(port)).then_some(()) }).await;
}

/// What the image asks its server.
fn health_check() -> Vec<String> {
    let file = example("deploy/Dockerfile");
    let line = file.lines().find(|line| line.starts_with("HEALTHCHECK")).unwrap();
    serde_json::from_str(&line[line.find('[').unwrap()..]).unwrap()
}

/// The members of a systemd unit.
fn unit() -> Vec<(String, String)> {
    let file = example("deploy/logoutd.service");
    let lines = file.lines().filter(|line| !line.starts_with(['#', '[']) && !line.is_empty());
    lines.map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap()).collect()
}

#[test]
fn the_unit_starts_what_this_program_understands_and_waits_for_its_end() {
    let unit = unit();
    let values = |wanted: &str| unit.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).collect::<Vec<_>>();
    for (commands, name) in [(values("ExecStartPre"), "check-config"), (values("ExecStart"), "serve")] {
        let [command] = commands[..] else { panic!("{commands:?}") };
        let arguments: Vec<_> = command.split(' ').skip(1).collect();
        assert_eq!(arguments, [name, "--config", "/etc/logoutd/logoutd.toml"]);
        let help = logoutd(&[name, "--help"], &[]);
        assert!(help.status.success() && text(&help.stdout).contains("--config"));
    }
    let grace = settings_of_the_schema()["shutdown_grace_s"]["default"].as_u64().unwrap();
    let stop: u64 = values("TimeoutStopSec")[0].trim_end_matches('s').parse().unwrap();
    assert!(stop > grace + 5, "what is in flight may take {grace} s, and the database its time");
    let [credential, environment] = [values("LoadCredential")[0], values("Environment")[0]];
    let (variable, path) = environment.split_once('=').unwrap();
    assert_eq!(path.strip_prefix("%d/"), credential.split(':').next());
    assert_variable(variable);
    for hardened in ["DynamicUser", "NoNewPrivileges", "ProtectSystem", "SystemCallFilter", "StateDirectory"] {
        assert!(!values(hardened).is_empty(), "{hardened}");
    }
}

#[test]
fn the_image_and_the_composition_set_variables_that_there_are() {
    let file = example("deploy/Dockerfile");
    let entry: Vec<String> = serde_json::from_str(file.lines().find_map(|line| line.strip_prefix("ENTRYPOINT ")).unwrap()).unwrap();
    let command: Vec<String> = serde_json::from_str(file.lines().find_map(|line| line.strip_prefix("CMD ")).unwrap()).unwrap();
    assert_eq!((entry, command), (vec!["logoutd".to_owned()], vec!["serve".to_owned()]));
    assert!(file.contains("\nUSER 10001\n") && file.contains("\nSTOPSIGNAL SIGTERM\n") && file.contains("--locked --release"));
    let ignored = example("deploy/Dockerfile.dockerignore");
    for needed in ["Cargo.toml", "Cargo.lock", "src", "migrations"] {
        assert!(ignored.lines().any(|line| line == format!("!{needed}")), "{needed}");
    }
    let texts = [file, example("deploy/compose.yaml")].concat();
    let names: Vec<_> = texts.split(|c: char| !c.is_ascii_uppercase() && c != '_').filter(|word| word.starts_with("LOGOUTD_")).collect();
    assert!(names.len() > 4, "{names:?}");
    names.into_iter().filter(|name| *name != "LOGOUTD_CONFIG").for_each(assert_variable);
}

/// Asserts that this is the variable of a setting.
fn assert_variable(name: &str) {
    let long = match name {
        "LOGOUTD_LISTEN" => "http.listen".to_owned(),
        "LOGOUTD_DATABASE_URL" => "database.url".to_owned(),
        name => name.strip_prefix("LOGOUTD_").unwrap().to_lowercase().replace("__", "."),
    };
    assert!(settings_of_the_schema().contains_key(&long), "{name} is the variable of no setting");
}

#[test]
fn a_sealing_key_that_others_may_read_is_refused_and_another_secret_is_told_of() {
    const OCTETS: &str = "kKvN7xI0VniQq83vEjRWeJCrze8SNFZ4q83vEjRWeJA=";
    let directory = tempfile::tempdir().unwrap();
    let secret = |name: &str, content: &str, mode: u32| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let check = |variables: &[(&str, &str)]| {
        let output = logoutd(&["check-config"], variables);
        (output.status.code(), text(&output.stderr).to_owned())
    };
    let (open, kept) = (secret("open.key", OCTETS, 0o644), secret("kept.key", OCTETS, 0o600));
    for setting in ["LOGOUTD_SEALING_KEY_FILE", "LOGOUTD_SEALING_KEY_PREVIOUS_FILE"] {
        let (status, told) = check(&[(setting, &open)]);
        assert!(status == Some(1) && told.contains(setting) && told.contains(&open) && told.contains("may be read by others"), "{told}");
        assert!(!told.contains(OCTETS), "{told}");
        assert_eq!(check(&[(setting, &kept)]), (Some(0), String::new()));
    }

    let token = secret("admin.token", "an-administrator-token-of-32-characters", 0o644);
    let (status, told) = check(&[("LOGOUTD_ADMIN_TOKEN_FILE", &token)]);
    assert!(status == Some(0) && told.starts_with(&format!("admin_token_file: {token} may be read by others")), "{told}");
    let (of_client, authority) = (secret("client.secret", "a-secret-of-a-client-of-this-length", 0o640), secret("header", "a", 0o604));
    let declared = format!(
        "[[issuers]]\nid = \"main\"\nissuer = \"https://id.example.com\"\n[[issuers.clients]]\nclient_id = \"wiki\"\nclient_secret_file = {of_client:?}\n\
         delivery = {{ headers = {{ x-key_file = {authority:?} }} }}\n"
    );
    let (status, told) = check(&[("LOGOUTD_CONFIG", &secret("logoutd.toml", &declared, 0o644))]);
    assert!(status == Some(0) && told.contains("issuers[main].clients[wiki].delivery.headers.x-key_file: "), "{told}");
    // What is root's may be lent to a group.
    let is_root = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&of_client).unwrap()) == 0;
    assert_eq!(told.contains("issuers[main].clients[wiki].client_secret_file: "), !is_root, "{told}");
}
