use std::io::Write as _;

use super::*;
use crate::model::check::WhenUnavailable;

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn from_variables(pairs: &[(&str, &str)]) -> Result<Config, Mistakes> {
    Config::load(&Arguments::default(), variables(pairs))
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn from_file(text: &str, pairs: &[(&str, &str)]) -> Result<Config, Mistakes> {
    let file = file(text);
    let arguments = Arguments { config: Some(file.path().to_owned()), ..Arguments::default() };
    Config::load(&arguments, variables(pairs))
}

fn whys(result: Result<Config, Mistakes>) -> Vec<String> {
    result.unwrap_err().0.iter().map(ToString::to_string).collect()
}

type Variables = &'static [(&'static str, &'static str)];

const KEY: (&str, &str) = ("LOGOUTD_SEALING_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");

#[test]
fn a_sealing_key_is_read_from_its_file_as_text_or_as_it_is_and_from_nothing_else() {
    let raw: [u8; 32] = std::array::from_fn(|at| 0xff - u8::try_from(at).unwrap());
    let read = |content: &[u8]| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        from_variables(&[("LOGOUTD_SEALING_KEY_FILE", file.path().to_str().unwrap())])
    };
    let text = KeyOctets::new(raw).to_text();
    for content in [raw.to_vec(), format!("{}\n", text.expose()).into_bytes()] {
        assert!(matches!(read(&content).unwrap().sealing_key, SealingKey::InFile(key, _) if key == KeyOctets::new(raw)));
    }
    for wrong in [&raw[..31], b"\xff\xfe\n", b""] {
        let why = whys(read(wrong));
        assert!(why.len() == 1 && why[0].contains("32 octets, as they are or in base64"), "{why:?}");
    }
}

#[test]
fn with_nothing_set_every_setting_has_its_documented_default() {
    let config = from_variables(&[]).unwrap();
    assert_eq!(config.mode, Mode::Production);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.public_url(config.http.listen), "http://127.0.0.1:8080");
    assert_eq!(config.database.url, DatabaseUrl::Sqlite("logoutd.db".into()));
    assert_eq!(config.sealing_key, SealingKey::BesideDatabase("logoutd.db.key".into()));
    assert_eq!(config.delivery.defaults, DeliverySettings::DEFAULT);
    assert_eq!(config.delivery.lease, Duration::from_secs(30));
    assert_eq!(config.token.lifetime, Duration::from_mins(2));
    assert_eq!(config.idempotency_keep, Duration::from_hours(24));
    assert_eq!((config.retention.settled, config.retention.sessions), (Duration::from_hours(720), Duration::from_hours(720)));
    assert_eq!(config.reconcile.percent_max, 10);
    assert!(config.admin_token.is_none() && config.network.allow.is_empty());
}

#[test]
fn an_argument_wins_over_a_variable_and_a_variable_over_the_file() {
    let file = file("[http]\nlisten = \"127.0.0.1:1\"\nbody_bytes_max = 2048\nconnections_max = 5\n");
    let arguments = Arguments { config: Some(file.path().to_owned()), listen: Some("127.0.0.1:3".into()), ..Arguments::default() };
    let config =
        Config::load(&arguments, variables(&[("LOGOUTD_LISTEN", "127.0.0.1:2"), ("LOGOUTD_HTTP__BODY_BYTES_MAX", "4096")])).unwrap();
    assert_eq!(config.http.listen.port(), 3);
    assert_eq!(config.http.body_bytes_max, 4096);
    assert_eq!(config.http.connections_max, 5);
}

#[test]
fn the_file_may_be_named_by_a_variable() {
    let file = file("dev = true\n");
    let config = from_variables(&[("LOGOUTD_CONFIG", file.path().to_str().unwrap())]).unwrap();
    assert_eq!(config.mode, Mode::Dev);
}

#[test]
fn all_mistakes_are_reported_at_once_each_with_its_path_and_source() {
    let found = whys(from_file(
        "prot = 1\n[http]\nlisten = 8080\nbody_bytes_max = 1\n[delivery]\nlisten = \"x\"\n",
        &[("LOGOUTD_LOG__LEVEL", "loud"), ("LOGOUTD_TOKEN__LIFETIME_S", "soon"), ("LOGOUTD_NOPE", "1"), ("HTTPS_PROXY", "http://p:1")],
    ));
    let expected = [
        ("http.listen", ":3)", "must be a string, not a whole number"),
        ("http.body_bytes_max", ":4)", "must be 1024 to 67108864, not 1"),
        ("token.lifetime_s", "(LOGOUTD_TOKEN__LIFETIME_S)", "must be a whole number"),
        ("log.level", "(LOGOUTD_LOG__LEVEL)", "must be one of error, warn"),
        ("network.ambient_proxy", "(default)", "HTTPS_PROXY"),
        ("delivery.listen", ":6)", "is not a setting"),
        ("nope", "(LOGOUTD_NOPE)", "is not a setting"),
        ("prot", ":1)", "is not a setting"),
    ];
    for (path, source, why) in expected {
        assert!(
            found.iter().any(|line| line.starts_with(path) && line.contains(source) && line.contains(why)),
            "{path} {source} {why} in {found:#?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn contradictions_name_both_settings() {
    let cases: [(Variables, [&str; 2]); 8] = [
        (
            &[("LOGOUTD_DELIVERY__TIMEOUT_MS", "20000"), ("LOGOUTD_DELIVERY__TIMEOUT_MAX_MS", "10000")],
            ["delivery.timeout_ms (LOGOUTD_DELIVERY__TIMEOUT_MS)", "delivery.timeout_max_ms (LOGOUTD_DELIVERY__TIMEOUT_MAX_MS)"],
        ),
        (
            &[("LOGOUTD_DELIVERY__LEASE_MS", "20000")],
            ["delivery.timeout_max_ms (default)", "delivery.lease_ms (LOGOUTD_DELIVERY__LEASE_MS)"],
        ),
        (&[("LOGOUTD_DELIVERY__TOTAL_IN_FLIGHT", "7")], ["delivery.max_in_flight (default)", "delivery.total_in_flight (LOGOUTD_"]),
        (&[("LOGOUTD_DELIVERY__POLL_MS", "6000")], ["delivery.poll_ms (LOGOUTD_", "delivery.idle_poll_ms (default)"]),
        (&[("LOGOUTD_TOKEN__LIFETIME_S", "10")], ["delivery.timeout_max_ms (default)", "token.lifetime_s (LOGOUTD_"]),
        (&[("LOGOUTD_HTTP__METRICS_LISTEN", "127.0.0.1:8080")], ["http.listen (default)", "http.metrics_listen (LOGOUTD_"]),
        (
            &[("LOGOUTD_IDEMPOTENCY_KEEP_H", "48"), ("LOGOUTD_RETENTION__SETTLED_DAYS", "1")],
            ["idempotency_keep_h (LOGOUTD_IDEMPOTENCY_KEEP_H)", "retention.settled_days (LOGOUTD_RETENTION__SETTLED_DAYS)"],
        ),
        (&[("LOGOUTD_LISTEN", "127.0.0.1:1"), ("LOGOUTD_HTTP__LISTEN", "127.0.0.1:2")], ["(LOGOUTD_LISTEN)", "(LOGOUTD_HTTP__LISTEN)"]),
    ];
    for (pairs, named) in cases {
        let found = whys(from_variables(pairs));
        assert_eq!(found.len(), 1, "{pairs:?}: {found:#?}");
        assert!(named.iter().all(|name| found.iter().any(|line| line.contains(name))), "{named:?} in {found:#?}");
    }
}

#[test]
fn a_setting_that_is_wrong_in_itself_is_not_reported_again_as_a_contradiction() {
    let found = whys(from_variables(&[("LOGOUTD_DELIVERY__LEASE_MS", "20000"), ("LOGOUTD_DELIVERY__TIMEOUT_MAX_MS", "x")]));
    assert_eq!(found.len(), 1, "{found:#?}");
}

#[test]
fn a_file_that_is_no_toml_is_reported_with_its_line_and_draws_no_conclusions_from_what_it_lacks() {
    let found = whys(from_file("sealing_key = \n", &[("LOGOUTD_DATABASE_URL", "postgres://db/x")]));
    assert!(found.iter().all(|line| line.starts_with("file") && line.contains(":1)")), "{found:#?}");
    assert!(whys(from_variables(&[("LOGOUTD_CONFIG", "/nonexistent.toml")])).concat().contains("cannot be read"));
}

#[test]
fn postgresql_without_a_sealing_key_is_refused() {
    let url = ("LOGOUTD_DATABASE_URL", "postgres://db/logoutd");
    let found = whys(from_variables(&[url]));
    assert!(found.len() == 1 && found.concat().contains("database.url (LOGOUTD_DATABASE_URL) and sealing_key (default)"), "{found:#?}");
    assert_eq!(from_variables(&[url, KEY]).unwrap().sealing_key, SealingKey::Given(KeyOctets::new([0; 32])));
}

#[test]
fn secrets_may_come_from_files_and_not_from_both() {
    let key = file("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n");
    let token = file("0123456789abcdef0123456789abcdef\n");
    let files = [("LOGOUTD_SEALING_KEY_FILE", key.path().to_str().unwrap()), ("LOGOUTD_ADMIN_TOKEN_FILE", token.path().to_str().unwrap())];
    let config = from_variables(&files).unwrap();
    assert_eq!(config.sealing_key, SealingKey::InFile(KeyOctets::new([0; 32]), key.path().to_owned()));
    assert_eq!(config.exposed, []);
    assert_eq!(config.admin_token.unwrap().expose(), "0123456789abcdef0123456789abcdef");
    let found = whys(from_variables(&[files[0], KEY]));
    assert!(found.concat().contains("sealing_key (LOGOUTD_SEALING_KEY) and sealing_key_file (LOGOUTD_SEALING_KEY_FILE)"), "{found:#?}");
}

#[test]
fn an_admin_token_that_could_be_guessed_or_not_be_presented_is_refused() {
    for (token, why) in [("short", "at least 32"), (&"x y".repeat(20), "consist of"), (&"x".repeat(256), "at most 255")] {
        let found = whys(from_variables(&[("LOGOUTD_ADMIN_TOKEN", token)]));
        assert!(found.concat().contains(why) && !found.concat().contains(token), "{found:#?}");
    }
}

#[test]
fn neither_debug_nor_the_summary_nor_a_mistake_tells_a_secret() {
    let secrets = ["hunter2", "0123456789abcdef0123456789abcdef", KEY.1];
    let pairs = [("LOGOUTD_DATABASE_URL", "postgres://u:hunter2@db:5432/x?password=hunter2"), KEY, ("LOGOUTD_ADMIN_TOKEN", secrets[1])];
    let config = from_variables(&pairs).unwrap();
    let broken = whys(from_variables(&[("LOGOUTD_DATABASE_URL", "mysql://u:hunter2@db/x"), ("LOGOUTD_SEALING_KEY", "hunter2")]));
    let shown = format!("{config:?} {:?} {broken:?}", config.settings());
    assert!(secrets.iter().all(|secret| !shown.contains(secret)), "{shown}");
    assert!(config.settings().iter().any(|setting| setting.shown == "postgres://db/x"), "{:?}", config.settings());
}

#[test]
fn the_database_is_a_file_or_postgresql() {
    let url = |text| from_variables(&[("LOGOUTD_DATABASE_URL", text), KEY]).map(|config| config.database.url);
    assert_eq!(url("sqlite:///var/lib/l.db").unwrap(), DatabaseUrl::Sqlite("/var/lib/l.db".into()));
    assert_eq!(url("sqlite://l.db").unwrap(), DatabaseUrl::Sqlite("l.db".into()));
    assert!(matches!(url("postgresql:///x?host=/run/postgresql").unwrap(), DatabaseUrl::Postgres(_)));
    for text in ["sqlite://", "sqlite://:memory:", "sqlite://x?mode=ro", "sqlite:x", "mysql://x/y", "logoutd.db"] {
        assert!(url(text).is_err(), "{text}");
    }
}

#[test]
fn networks_are_read_strictly() {
    let allow = |text| from_variables(&[("LOGOUTD_NETWORK__ALLOW", text)]).map(|config| listed(&config.network.allow));
    assert_eq!(allow("10.0.0.0/8, fd00::/8,192.168.1.5").unwrap(), "10.0.0.0/8, fd00::/8, 192.168.1.5/32");
    for text in ["10.1.2.3/8", "ten", "10.0.0.0/33", "169.254.169.254", "fe80::/64", "169.254.0.0/16"] {
        assert!(allow(text).is_err(), "{text}");
    }
    let config = from_file("[network]\nallow = [\"10.0.0.0/8\"]\n", &[]).unwrap();
    assert_eq!(listed(&config.network.allow), "10.0.0.0/8");
    assert!(from_file("[network]\nallow = [8]\n", &[]).is_err());
}

#[test]
fn proxy_variables_are_a_refusal_until_somebody_decides_to_ignore_them() {
    let proxy = ("http_proxy", "http://proxy:3128");
    assert!(whys(from_variables(&[proxy])).concat().contains("http_proxy"));
    assert!(from_variables(&[proxy, ("LOGOUTD_NETWORK__AMBIENT_PROXY", "ignore")]).is_ok());
    assert!(from_variables(&[("HTTP_PROXY", ""), ("NO_PROXY", "localhost")]).is_ok());
    assert!(from_variables(&[proxy, ("LOGOUTD_NETWORK__AMBIENT_PROXY", "use")]).is_err());
}

#[test]
fn variables_of_the_command_line_the_tests_and_kubernetes_are_not_settings() {
    let others = [
        ("LOGOUTD_URL", "http://x"),
        ("LOGOUTD_TOKEN", "x"),
        ("LOGOUTD_TEST_POSTGRES_URL", "x"),
        ("LOGOUTD_PORT", "tcp://10.0.0.1:8080"),
        ("LOGOUTD_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("LOGOUTD_SERVICE_HOST", "10.0.0.1"),
        ("LOGOUTD_ADMIN_TOKEN", ""),
    ];
    assert!(from_variables(&others).is_ok());
}

#[test]
fn a_table_in_place_of_a_value_and_a_value_in_place_of_a_table_are_told_apart() {
    let found = whys(from_file("http = 5\n[log]\nlevel = { a = 1 }\n", &[]));
    assert!(found.iter().any(|line| line.starts_with("http ") && line.contains("must be a table")), "{found:#?}");
    assert!(found.iter().any(|line| line.starts_with("log.level.a ") && line.contains("is not a setting")), "{found:#?}");
}

#[test]
fn numbers_that_no_setting_can_hold_are_refused() {
    for text in ["-1", "99999999999999999999", "1.5", "0"] {
        assert!(from_variables(&[("LOGOUTD_DATABASE__MAX_CONNECTIONS", text)]).is_err(), "{text}");
        assert!(from_file(&format!("[database]\nmax_connections = {text}\n"), &[]).is_err(), "{text}");
    }
    assert_eq!(from_file("[database]\nmax_connections = 0x1_0\n", &[]).unwrap().database.max_connections, 16);
}

#[test]
fn a_public_url_has_no_trailing_slash_and_no_query() {
    let config = from_variables(&[("LOGOUTD_PUBLIC_URL", "https://logout.example/base/")]).unwrap();
    assert_eq!(config.public_url(config.http.listen), "https://logout.example/base");
    for text in ["logout.example", "ftp://x", "https://x/?a=b", "https://x/#f", "https://u:p@x/"] {
        assert!(from_variables(&[("LOGOUTD_PUBLIC_URL", text)]).is_err(), "{text}");
    }
}

#[test]
fn a_proxy_is_named_whole_and_its_password_never_told() {
    let config = from_variables(&[
        ("LOGOUTD_EGRESS__PROXY", "http://user:pa%3Ass@proxy.example:3128"),
        ("LOGOUTD_EGRESS__NO_PROXY", "10.0.0.0/8,wiki.internal,.corp.example,192.0.2.1"),
    ])
    .unwrap();
    let proxy = config.egress.proxy.clone().unwrap();
    assert_eq!((proxy.to_string(), proxy.past.len()), ("http://proxy.example:3128".to_owned(), 4));
    let credentials = proxy.credentials.clone().unwrap();
    assert_eq!((credentials.name.as_str(), credentials.password.as_str()), ("user", "pa:ss"));
    let shown = format!("{config:?}{:?}", config.settings());
    assert!(!shown.contains("pa:ss") && !shown.contains("pa%3Ass"), "{shown}");
    let bare = from_variables(&[("LOGOUTD_EGRESS__PROXY", "http://[fd00::1]/")]).unwrap().egress.proxy.unwrap();
    assert_eq!((bare.to_string(), bare.credentials), ("http://[fd00::1]:80".to_owned(), None));
}

#[test]
fn what_is_no_proxy_is_refused_without_being_repeated() {
    for url in [
        "proxy:3128",
        "https://secret@proxy:3128",
        "socks5://user:secret@proxy:1080",
        "http://user:secret@proxy:3128/path",
        "http://user:secret@proxy:3128/?q",
        "http://user:secret@proxy:3128/#f",
        "http://user:secret@proxy:0",
        "http://:secret@proxy:3128",
        "http://a%3Ab:secret@proxy:3128",
        "http://user:secret%0d%0a@proxy:3128",
        "http://user:secret%@proxy:3128",
        "http://",
    ] {
        let whys = whys(from_variables(&[("LOGOUTD_EGRESS__PROXY", url)]));
        assert!(whys.len() == 1 && whys[0].contains("egress.proxy") && !whys[0].contains("secret"), "{url}: {whys:?}");
    }
    for past in ["*", "*.corp.example", "a b", "10.0.0.1/8", "http://wiki.internal", "169.254.0.0/16", "."] {
        let pairs = [("LOGOUTD_EGRESS__PROXY", "http://proxy:3128"), ("LOGOUTD_EGRESS__NO_PROXY", past)];
        let whys = whys(from_variables(&pairs));
        assert!(whys.len() == 1 && whys[0].contains("egress.no_proxy"), "{past}: {whys:?}");
    }
    let whys = whys(from_variables(&[("LOGOUTD_EGRESS__NO_PROXY", "wiki.internal")]));
    assert!(whys.len() == 1 && whys[0].contains("egress.no_proxy") && whys[0].contains("egress.proxy"), "{whys:?}");
}

#[test]
fn a_gateway_s_profile_is_read_from_the_file_and_shown_without_its_key() {
    let secret = "gateway-secret-0123456789-0123456789";
    let text = format!(
        "[check.api]\nissuer = \"main\"\naudiences = [\"a\", \"b\"]\nscopes = [\"read\"]\nwhen_unavailable = \"open\"\nkey = \"{secret}\"\n"
    );
    let config =
        from_file(&text, &[("LOGOUTD_CHECK__FAR__ISSUER", "other"), ("LOGOUTD_CHECK__FAR__ALLOW_NETWORKS", "10.0.0.0/8,fe80::1")]).unwrap();
    let [api, far] = &config.checks[..] else { panic!("{:?}", config.checks) };
    assert_eq!((api.name.as_str(), api.profile.issuer.as_str(), far.name.as_str()), ("api", "main", "far"));
    assert_eq!((&api.profile.audiences[..], &api.profile.scopes[..]), (&["a".to_owned(), "b".to_owned()][..], &["read".to_owned()][..]));
    assert_eq!((api.profile.when_unavailable, far.profile.when_unavailable), (WhenUnavailable::Open, WhenUnavailable::Closed));
    assert_eq!((api.key.as_ref().map(Secret::expose), far.profile.networks.len()), (Some(secret), 2));
    let shown = |path: &str| config.settings().iter().find(|setting| setting.path == path).map(|setting| setting.shown.as_str());
    assert_eq!(
        (shown("check.api.key"), shown("check.api.scopes"), shown("check.far.key")),
        (Some("(hidden)"), Some("read"), Some("(none)"))
    );
    assert!(!format!("{config:?}{:?}", config.settings()).contains(secret));
}

#[test]
fn a_gateway_s_profile_that_nobody_could_use_or_everybody_could_is_refused() {
    let file = file("gateway-secret-0123456789-0123456789\n");
    let key_file = format!("key_file = {:?}", file.path());
    let key = "key = \"gateway-secret-0123456789-0123456789\"";
    for (text, named) in [
        ("[check.api]\nissuer = \"main\"", "check.api.allow_networks (default) and check.api.key (default): nobody would be known"),
        ("[check.api]\nallow_networks = [\"10.0.0.0/8\"]", "check.api.issuer (default): must be said"),
        (&format!("[check.api]\nissuer = \"main\"\n{key}\n{key_file}"), "both are set: keep one"),
        ("[check.api]\nissuer = \"main\"\nkey = \"short\"", "must have at least 32 characters"),
        (&format!("[check.Api]\nissuer = \"main\"\n{key}"), "is no name"),
        (&format!("[check.api]\nissuer = \"Main\"\n{key}"), "must be 1 to 63 of a-z"),
        (&format!("[check.api]\nissuer = \"main\"\n{key}\nscopes = [\"a b\"]"), "must hold scopes"),
        (&format!("[check.api]\nissuer = \"main\"\n{key}\nwhen_unavailable = \"ajar\""), "must be one of closed, open"),
        (&format!("[check.api]\nissuer = \"main\"\n{key}\nallow_networks = [\"10.0.0.1/8\"]"), "bits behind its prefix"),
        (&format!("[check.api]\nissuer = \"main\"\n{key}\naudience = [\"x\"]"), "check.api.audience (/"),
    ] {
        let found = whys(from_file(text, &[]));
        assert!(found.len() == 1 && found[0].contains(named), "{text}: {found:#?}");
    }
    let from_a_file = from_file(&format!("[check.api]\nissuer = \"main\"\n{key_file}"), &[]).unwrap();
    assert_eq!(from_a_file.checks[0].key.as_ref().map(Secret::expose), Some("gateway-secret-0123456789-0123456789"));
}

#[test]
fn what_is_declared_is_json_as_it_would_be_posted_and_knows_where_each_member_stands() {
    let secret = file("from-a-file\n");
    let path = secret.path().to_str().unwrap();
    let text = format!(
        "dev = true\n[[issuers]]\nid = \"main\"\nsession_max_age = 0x10\nallow_networks = [\n  \"10.0.0.0/8\",\n  \"fd00::/8\",\n]\nrevocation.client_secret_file = {path:?}\n\
         [issuers.provider_logout]\nbody = {{ ratio = 0.5, at = 2026-01-01T00:00:00Z, token_file = \"as it is\", big = 9223372036854775807 }}\n\
         [[issuers.clients]]\nclient_id = \"wiki\"\nclient_secret = false\n[issuers.clients.delivery]\nheaders = {{ \"x-a_file\" = {path:?}, x-b = \"b\" }}\n\
         [[issuers]]\nid = \"other\"\n"
    );
    let config = from_file(&text, &[]).unwrap();
    let [main, other] = &config.declared[..] else { panic!("{:?}", config.declared) };
    let expected = serde_json::json!({
        "id": "main", "session_max_age": 16, "allow_networks": ["10.0.0.0/8", "fd00::/8"], "revocation": {"client_secret": "from-a-file"},
        "provider_logout": {"body": {"ratio": 0.5, "at": "2026-01-01T00:00:00Z", "token_file": "as it is", "big": i64::MAX}},
    });
    assert_eq!((&main.registration.body, other.clients.len()), (&expected, 0));
    let client =
        serde_json::json!({"client_id": "wiki", "client_secret": null, "delivery": {"headers": {"x-a": "from-a-file", "x-b": "b"}}});
    assert_eq!(main.clients[0].body, client);
    let line = |declaration: &Declaration, pointer: &str| match declaration.source(pointer) {
        Source::File { line, .. } => line,
        other @ (Source::Default | Source::Variable(_) | Source::Argument(_)) => panic!("{other}"),
    };
    let lines = ["", "/id", "/allow_networks/1", "/revocation/client_secret", "/provider_logout/body/ratio", "/nowhere"]
        .map(|at| line(&main.registration, at));
    assert_eq!(lines, [2, 3, 7, 9, 11, 2].map(Some));
    assert_eq!(
        ["", "/client_secret", "/delivery/headers/x-b", "/delivery/nowhere"].map(|at| line(&main.clients[0], at)),
        [12, 14, 16, 15].map(Some)
    );
    assert_eq!(main.clients[0].name(), "issuers[main].clients[wiki]");
    assert!(!format!("{config:?}").contains("from-a-file"));
}
