//! What is kept of a refusal: enough to see why, nothing that could be used.
//!
//! Owns the cleaning of bodies. Never keeps a token: a receiver may echo ours, or somebody else's.

use crate::model::shown::is_unseen;

/// How much of a body is read, in octets.
pub(super) const BODY_OCTETS_MAX: usize = 8 * 1024;

/// How much of it is kept, in octets.
const EXCERPT_OCTETS_MAX: usize = 1024;

/// What stands where a token was.
const TOKEN: &str = "[token]";

/// From this length a run of base64url is taken for a part of a token where its neighbours look like one too; words of a sentence and labels of a
/// host name are shorter.
const PART_OCTETS_MIN: usize = 16;

/// From this length a secret is looked for: a shorter one is no secret, and taking it out would leave nothing to read.
const SECRET_OCTETS_MIN: usize = 4;

/// Whether all of a body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// To its end.
    Whole,
    /// A limit or a fault ended the reading.
    Cut,
}

/// The beginning of a body without control characters, without the secrets that were sent and without anything shaped like a token.
pub(super) fn excerpt(body: &[u8], extent: Extent, secrets: &[&str]) -> Option<String> {
    // Controls go first, so that a line end inside a token does not hide it.
    let text: String = String::from_utf8_lossy(body).chars().filter(|c| !is_unseen(*c)).collect();
    // Before tokens are looked for: those would take a piece out of a secret and leave the rest.
    let text = without_secrets(text, extent, secrets);
    let mut text = without_tokens(&text, extent);
    // A signature alone, or a part with other words grown onto it, does not look like a token.
    for part in secrets.iter().flat_map(|sent| sent.split('.')).filter(|part| part.len() >= PART_OCTETS_MIN) {
        if text.contains(part) {
            text = text.replace(part, TOKEN);
        }
    }
    text.truncate(text.floor_char_boundary(EXCERPT_OCTETS_MAX));
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Takes out each secret, longest first, since one may be a part of another; where the reading was cut, also the beginning of one at its end.
fn without_secrets(mut text: String, extent: Extent, secrets: &[&str]) -> String {
    let mut secrets: Vec<&str> = secrets.iter().copied().filter(|secret| secret.len() >= SECRET_OCTETS_MIN).collect();
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    // First, since a shorter secret taken out of the beginning of a longer one would leave the rest.
    if extent == Extent::Cut {
        let begun = |secret: &&str| {
            (SECRET_OCTETS_MIN..=secret.len()).rev().find(|length| secret.get(..*length).is_some_and(|part| text.ends_with(part)))
        };
        if let Some(length) = secrets.iter().filter_map(begun).max() {
            text.truncate(text.len() - length);
            text.push_str(TOKEN);
        }
    }
    for secret in &secrets {
        if text.contains(secret) {
            text = text.replace(secret, TOKEN);
        }
    }
    text
}

fn without_tokens(text: &str, extent: Extent) -> String {
    let of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (other, from) = rest.split_at(rest.find(of_token).unwrap_or(rest.len()));
        let (span, after) = from.split_at(from.find(|c| !of_token(c)).unwrap_or(from.len()));
        // Where the reading was cut, the last span may be the beginning of a token.
        let cut = extent == Extent::Cut && after.is_empty() && span.len() >= PART_OCTETS_MIN;
        clean.push_str(other);
        clean.push_str(if cut || has_token(span) { TOKEN } else { span });
        rest = after;
    }
    clean
}

/// Whether runs of base64url joined by dots look like a JWT or a piece of one.
fn has_token(span: &str) -> bool {
    let parts: Vec<&str> = span.split('.').collect();
    // `{` and what may follow it in JSON always begin so in base64url: a header, or claims.
    let json = |part: &&str| part.len() >= PART_OCTETS_MIN && (part.starts_with("ey") || part.starts_with("ew"));
    let long = |part: &&str| part.len() >= PART_OCTETS_MIN;
    parts.iter().any(json) || parts.windows(3).any(|three| three.iter().filter(|part| long(part)).count() >= 2)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;

    fn jwt(header: &str, claims: &str, signature: &[u8]) -> String {
        format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims), URL_SAFE_NO_PAD.encode(signature))
    }

    fn sent() -> String {
        jwt(r#"{"alg":"RS256","kid":"k1"}"#, r#"{"iss":"https://op.example","sub":"alice","sid":"s-1"}"#, &[7; 256])
    }

    fn of(body: &str) -> Option<String> {
        excerpt(body.as_bytes(), Extent::Whole, &[&sent()])
    }

    #[test]
    fn the_reason_of_a_refusal_is_kept() {
        let body = r#"{"error":"invalid_request","error_description":"sid is unknown at rp1.eu-west.example.com"}"#;
        assert_eq!(of(body).as_deref(), Some(body));
        assert_eq!(
            of("v1.2.3 at com.example.logout.Handler.handle (java.lang.Thread)").as_deref(),
            Some("v1.2.3 at com.example.logout.Handler.handle (java.lang.Thread)")
        );
        assert_eq!(of(" \n\r\t "), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn the_token_sent_is_removed_whole_wrapped_and_in_parts() {
        let sent = sent();
        let parts: Vec<&str> = sent.split('.').collect();
        let wrapped = sent.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect::<Vec<_>>().join("\r\n");
        for echo in [
            format!("bad token: {sent}"),
            format!("logout_token={sent}&x=1"),
            format!("wrapped\n{wrapped}\nend"),
            format!("claims {} signature {}", parts[1], parts[2]),
            format!("<b>{sent}</b>{sent}"),
        ] {
            let kept = of(&echo).unwrap();
            assert!(parts.iter().all(|part| !kept.contains(&part[..12])), "{kept}");
            assert!(kept.contains(TOKEN), "{kept}");
        }
        assert_eq!(of(&format!("a {sent} b")).as_deref(), Some("a [token] b"));
    }

    #[test]
    fn somebody_elses_token_is_removed_too() {
        let claims = r#"{"sub":"bob"}"#;
        for other in [
            jwt(r#"{"alg":"none"}"#, claims, &[]),
            jwt("{ \"alg\": \"ES256\"}", claims, &[1; 64]),
            jwt("{\n  \"alg\": \"ES256\"}", claims, &[1; 64]),
            // A JWE with an empty key part.
            format!(
                "{}..AAAAAAAAAAAAAAAA.BBBBBBBBBBBBBBBBBBBBBBBBBB.CCCCCCCCCCCCCCCC",
                URL_SAFE_NO_PAD.encode(r#"{"alg":"dir","enc":"A256GCM"}"#)
            ),
            // Claims alone say who it was.
            URL_SAFE_NO_PAD.encode(claims),
            "c29tZSBvdGhlciBwYXJ0.c29tZSBvdGhlciBwYXJ0.c29tZSBvdGhlciBwYXJ0".to_owned(),
        ] {
            assert_eq!(of(&format!("got '{other}'!")).as_deref(), Some("got '[token]'!"), "{other}");
        }
    }

    #[test]
    fn a_token_cut_in_the_middle_is_removed_as_well() {
        let sent = jwt(r#"{"alg":"RS256"}"#, r#"{"sub":"alice"}"#, &[7; 256]);
        let other = jwt("not json, padded to be long", "neither, but long enough as well", &[9; 256]);
        for token in [&sent, &other] {
            for length in PART_OCTETS_MIN..token.len() {
                let body = format!("why: {}", &token[..length]);
                let kept = excerpt(body.as_bytes(), Extent::Cut, &[&sent]).unwrap();
                assert_eq!(kept, "why: [token]", "{length}");
            }
        }
    }

    #[test]
    fn a_password_that_looks_like_no_token_is_removed_whole_and_begun() {
        let secrets = ["hunter2 and more", "hunter2"];
        let kept = |body: &str, extent| excerpt(body.as_bytes(), extent, &secrets).unwrap();
        assert_eq!(kept("no hunter2 and more, no hunter2.", Extent::Whole), "no [token], no [token].");
        assert_eq!(kept("it was hunter2 and m", Extent::Cut), "it was [token]");
        assert_eq!(kept("it was hunt", Extent::Cut), "it was [token]");
        assert_eq!(kept("it was hunt", Extent::Whole), "it was hunt");
        assert_eq!(excerpt(b"a b c", Extent::Cut, &["", "b", "c"]).as_deref(), Some("a b c"));
    }

    #[test]
    fn controls_and_direction_marks_are_removed() {
        assert_eq!(of("a\u{1b}[31mb\u{7}\u{202e}c\u{0}d\u{9b}e").as_deref(), Some("a[31mbcde"));
    }

    proptest! {
        #[test]
        fn an_excerpt_is_short_and_holds_no_control_and_no_token(body in prop::collection::vec(any::<u8>(), 0..3000), at in 0usize..3000, echo in any::<bool>()) {
            let sent = sent();
            let mut body = body;
            if echo {
                let at = at.min(body.len());
                body.splice(at..at, sent.bytes());
            }
            if let Some(kept) = excerpt(&body, Extent::Whole, &[&sent]) {
                prop_assert!(kept.len() <= EXCERPT_OCTETS_MAX);
                prop_assert!(!kept.chars().any(char::is_control));
                prop_assert!(sent.split('.').all(|part| !kept.contains(part)));
            }
        }
    }
}
