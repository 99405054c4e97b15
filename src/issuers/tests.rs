//! The address book against a provider on loopback that says what a test wants it to.

use std::collections::HashMap;

use loopback::{Provider, jwks_of};

use super::*;
use crate::egress::{EgressConfig, Mode};
use crate::model::client::Network;
use crate::model::issuer::{Expiry, PublishedAt, SESSION_MAX_AGE_DEFAULT, Upstream};
use crate::model::key::SigningAlg;
use crate::token::generate;

/// A provider on loopback, without anything of the server's own.
mod loopback {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    /// What it answers to which path; anything else is 404.
    type Answers = Arc<Mutex<HashMap<String, String>>>;

    pub(super) struct Provider {
        pub(super) base: String,
        answers: Answers,
        asked: Arc<AtomicUsize>,
        _tasks: JoinSet<()>,
    }

    impl Provider {
        pub(super) async fn open() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let base = format!("http://{}", listener.local_addr().unwrap());
            let (answers, asked) = (Answers::default(), Arc::new(AtomicUsize::new(0)));
            let mut tasks = JoinSet::new();
            let (table, counter) = (Arc::clone(&answers), Arc::clone(&asked));
            tasks.spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    counter.fetch_add(1, Ordering::SeqCst);
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(octet) = stream.read_u8().await else { break };
                        head.push(octet);
                    }
                    let head = String::from_utf8(head).unwrap();
                    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                    let answer = table.lock().unwrap().get(&path).cloned();
                    let (status, body) = answer.map_or(("404 Not Found", String::new()), |body| ("200 OK", body));
                    let length = body.len();
                    let head = format!(
                        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                    );
                    drop(stream.write_all((head + &body).as_bytes()).await);
                }
            });
            Self { base, answers, asked, _tasks: tasks }
        }

        pub(super) fn says(&self, path: &str, body: impl ToString) {
            self.answers.lock().unwrap().insert(path.to_owned(), body.to_string());
        }

        pub(super) fn is_gone(&self) {
            self.answers.lock().unwrap().clear();
        }

        pub(super) fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        pub(super) fn describes_itself_as(&self, issuer: &str) {
            let document = json!({
                "issuer": issuer,
                "authorization_endpoint": format!("{}/auth", self.base),
                "jwks_uri": format!("{}/certs", self.base),
                "revocation_endpoint": format!("{}/revoke", self.base),
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            });
            self.says("/.well-known/openid-configuration", document);
        }
    }

    pub(super) fn jwks_of(keys: &[&str]) -> String {
        format!("{{\"keys\":[{}]}}", keys.join(","))
    }
}

const NOW: Timestamp = Timestamp::from_seconds(1_790_000_000);

fn book() -> AddressBook {
    AddressBook::new(Arc::new(Egress::new(EgressConfig { mode: Mode::Development, ..EgressConfig::default() }).unwrap()))
}

fn issuer(name: &str, source: ProviderSource) -> IssuerRecord {
    IssuerRecord {
        id: IssuerId::parse("main").unwrap(),
        issuer: Issuer::parse(name).unwrap(),
        signing_algs: vec![SigningAlg::Rs256],
        session_max_age: SESSION_MAX_AGE_DEFAULT,
        expiry: Expiry::Absolute,
        network: Network::default(),
        source,
        upstream: Upstream::DEFAULT,
        provider_logout: None,
        access_tokens: crate::model::issuer::AccessTokens::DEFAULT,
        revocation: None,
        subject_secrets: None,
        managed_by: crate::model::issuer::ManagedBy::Api,
        created_at: NOW,
        updated_at: NOW,
        version: 1,
    }
}

fn at_jwks(provider: &Provider) -> IssuerRecord {
    let jwks_uri = Some(Url::parse(&format!("{}/jwks", provider.base)).unwrap());
    issuer(&provider.base, ProviderSource { discovery: false, jwks_uri, published_at: PublishedAt::Here })
}

fn discovered(provider: &Provider) -> IssuerRecord {
    issuer(&provider.base, ProviderSource { discovery: true, jwks_uri: None, published_at: PublishedAt::Here })
}

/// A public key and its name.
fn key() -> (String, String) {
    let made = generate(SigningAlg::Es256).unwrap();
    (made.public_jwk, made.kid)
}

#[tokio::test]
async fn a_provider_is_found_by_its_metadata_and_what_they_name() {
    let (provider, (jwk, kid)) = (Provider::open().await, key());
    provider.describes_itself_as(&provider.base);
    provider.says("/certs", jwks_of(&[&jwk]));
    let document = book().fetch(&discovered(&provider), NOW).await.unwrap();
    assert_eq!(document.jwks_uri.path(), "/certs");
    assert!(document.jwks.contains(&kid) && document.fetched_at == NOW);
    let metadata = Metadata::of(&document).unwrap();
    assert_eq!(metadata.revocation_endpoint.unwrap().path(), "/revoke");
    assert_eq!((metadata.token_endpoint, metadata.introspection_endpoint), (None, None));
}

#[tokio::test]
async fn metadata_of_another_issuer_are_not_believed() {
    let (provider, (jwk, _)) = (Provider::open().await, key());
    provider.says("/certs", jwks_of(&[&jwk]));
    for other in ["https://other.example".to_owned(), format!("{}/", provider.base)] {
        provider.describes_itself_as(&other);
        let away = book().fetch(&discovered(&provider), NOW).await.unwrap_err();
        assert!(matches!(&away, Away::Unread { why, .. } if why == "it is not of this issuer"), "{away}");
    }
}

#[tokio::test]
async fn a_jwks_uri_that_was_said_goes_before_the_one_in_the_metadata() {
    let (provider, (jwk, kid)) = (Provider::open().await, key());
    provider.describes_itself_as(&provider.base);
    provider.says("/certs", jwks_of(&[]));
    provider.says("/jwks", jwks_of(&[&jwk]));
    let mut both = discovered(&provider);
    both.source.jwks_uri = at_jwks(&provider).source.jwks_uri;
    let document = book().fetch(&both, NOW).await.unwrap();
    assert!(document.jwks.contains(&kid) && document.metadata.is_some());
}

#[tokio::test]
async fn a_flood_of_unknown_names_asks_the_provider_once_in_a_cool_down() {
    let (provider, (jwk, kid), book) = (Provider::open().await, key(), book());
    provider.says("/jwks", jwks_of(&[&jwk]));
    let issuer = at_jwks(&provider);
    let (_, first) = book.keys_for(&issuer, Some(&kid), None, NOW).await.unwrap();
    assert_eq!((first, provider.asked()), (Freshness::Fetched, 1));
    let later = NOW.plus(COOL_DOWN);
    let names: Vec<String> = (0..50).map(|n| format!("unknown-{n}")).collect();
    let asks = names.iter().map(|name| book.keys_for(&issuer, Some(name), None, later));
    let fetched = futures_util::future::join_all(asks).await.into_iter().filter(|answer| matches!(answer, Ok((_, Freshness::Fetched))));
    assert_eq!((fetched.count(), provider.asked()), (1, 2));
    book.keys_for(&issuer, Some("another"), None, later.plus(COOL_DOWN)).await.unwrap();
    assert_eq!(provider.asked(), 3, "after the cool-down it may be asked again");
}

#[tokio::test]
async fn a_provider_that_is_away_is_asked_no_more_often_than_one_that_answers() {
    let (provider, book) = (Provider::open().await, book());
    let issuer = at_jwks(&provider);
    assert!(matches!(book.keys_for(&issuer, None, None, NOW).await, Err(Away::Unread { .. })));
    for _ in 0..10 {
        assert_eq!(book.keys_for(&issuer, None, None, NOW).await.unwrap_err(), Away::Cooling);
    }
    assert_eq!(provider.asked(), 1);
}

#[tokio::test]
async fn a_new_key_is_found_when_it_is_named_and_an_old_set_is_read_again() {
    let (provider, (old, _), (new, new_kid), book) = (Provider::open().await, key(), key(), book());
    provider.says("/jwks", jwks_of(&[&old]));
    let issuer = at_jwks(&provider);
    book.keys_for(&issuer, None, None, NOW).await.unwrap();
    provider.says("/jwks", jwks_of(&[&old, &new]));
    let (keys, _) = book.keys_for(&issuer, Some(&new_kid), None, NOW.plus(COOL_DOWN)).await.unwrap();
    assert!(keys.has(&new_kid));
    provider.says("/jwks", jwks_of(&[&old]));
    let (keys, freshness) = book.keys_for(&issuer, None, None, NOW.plus(COOL_DOWN).plus(FRESH_FOR)).await.unwrap();
    assert!(!keys.has(&new_kid) && freshness == Freshness::Fetched, "a key that was withdrawn is not believed for ever");
}

#[tokio::test]
async fn the_last_known_keys_serve_for_seven_days_while_the_provider_is_away() {
    let (provider, (jwk, kid), book) = (Provider::open().await, key(), book());
    provider.says("/jwks", jwks_of(&[&jwk]));
    let issuer = at_jwks(&provider);
    let (keys, _) = book.keys_for(&issuer, None, None, NOW).await.unwrap();
    let written = keys.document.clone();
    provider.is_gone();
    let days = |days: u64| NOW.plus(Duration::from_secs(days * 24 * 3600));
    let (_, freshness) = book.keys_for(&issuer, Some(&kid), None, days(6)).await.unwrap();
    assert_eq!(freshness, Freshness::Remembered);
    assert!(book.keys_for(&issuer, Some(&kid), None, days(7)).await.is_err());
    // What was written down serves a process that has just started, for as long.
    let after_a_restart = super::tests::book();
    assert!(after_a_restart.keys_for(&issuer, Some(&kid), Some(written.clone()), days(6)).await.unwrap().0.has(&kid));
    assert!(super::tests::book().keys_for(&issuer, Some(&kid), Some(written), days(7)).await.is_err());
}

#[tokio::test]
async fn another_provider_under_the_same_short_id_inherits_nothing() {
    let (one, other, (jwk, kid), book) = (Provider::open().await, Provider::open().await, key(), book());
    one.says("/jwks", jwks_of(&[&jwk]));
    book.keys_for(&at_jwks(&one), None, None, NOW).await.unwrap();
    other.says("/jwks", jwks_of(&[]));
    let (keys, _) = book.keys_for(&at_jwks(&other), Some(&kid), None, NOW).await.unwrap();
    assert!(!keys.has(&kid));
}

#[tokio::test]
async fn a_key_set_that_is_too_long_or_holds_a_secret_or_is_our_own_is_refused_whole() {
    let (provider, (jwk, _)) = (Provider::open().await, key());
    let issuer = at_jwks(&provider);
    let secret = jwk.replacen('{', "{\"d\":\"AAAA\",", 1);
    let own = format!("{{\"logoutd\":\"main\",\"keys\":[{jwk}]}}");
    let ten_megabytes = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(10 * 1024 * 1024));
    for (set, why) in [(jwks_of(&[&secret]), "private"), (own, "leads back here"), (ten_megabytes, "longer than"), ("[]".into(), "object")]
    {
        provider.says("/jwks", set);
        let away = book().fetch(&issuer, NOW).await.unwrap_err().to_string();
        assert!(away.contains(why), "{away}");
    }
}

#[tokio::test]
async fn keys_that_nobody_can_use_are_left_out_of_what_is_believed() {
    let (provider, (good, kid)) = (Provider::open().await, key());
    let weak = r#"{"kty":"RSA","kid":"weak","n":"AQAB","e":"AQAB"}"#;
    let unknown = r#"{"kty":"AKP","kid":"unknown","pub":"AAAA"}"#;
    provider.says("/jwks", jwks_of(&[weak, unknown, &good]));
    let (keys, _) = book().keys_for(&at_jwks(&provider), None, None, NOW).await.unwrap();
    assert_eq!(keys.keys.iter().map(|key| key.kid().unwrap().to_owned()).collect::<Vec<_>>(), [kid]);
}
