//! One type for every protocol string and every internal id, so that no two can be mistaken for each other.

use std::fmt;

use super::Timestamp;

/// Why a value from outside is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {why}")]
pub struct Malformed {
    /// What it should have been, such as `a client_id`.
    pub what: &'static str,
    /// The rule it broke, such as `must have 1 to 255 characters`.
    pub why: &'static str,
}

/// The largest number of characters in an identifier from outside.
pub const IDENTIFIER_CHARS_MAX: usize = 255;

fn bounded(what: &'static str, text: &str) -> Result<(), Malformed> {
    match text.chars().take(IDENTIFIER_CHARS_MAX + 1).count() {
        1..=IDENTIFIER_CHARS_MAX if text.chars().any(char::is_control) => {
            Err(Malformed { what, why: "must not contain control characters" })
        }
        1..=IDENTIFIER_CHARS_MAX => Ok(()),
        _ => Err(Malformed { what, why: "must have 1 to 255 characters" }),
    }
}

/// `*VSCHAR` of RFC 6749 appendix A.1: what a `client_id` and a `sid` may consist of (BCL 2.1).
fn visible_ascii(what: &'static str, text: &str) -> Result<(), Malformed> {
    bounded(what, text)?;
    if text.bytes().all(|octet| (0x20..=0x7e).contains(&octet)) {
        Ok(())
    } else {
        Err(Malformed { what, why: "must consist of printable ASCII characters" })
    }
}

/// Whether a text is what stands in the place of an erased name: `~` and a digest. Nobody is called so from outside, since whoever is would be taken for
/// somebody who was erased.
pub(crate) fn is_veiled(text: &str) -> bool {
    let letter = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
    text.strip_prefix('~').is_some_and(|digest| digest.len() == 43 && digest.bytes().all(letter))
}

const VEILED: &str = "must not be what stands for an erased name: ~ and 43 characters of base64url";

/// What names a person or a session, and is none of the names that erasing makes.
fn unveiled(what: &'static str, text: &str) -> Result<(), Malformed> {
    bounded(what, text)?;
    if is_veiled(text) { Err(Malformed { what, why: VEILED }) } else { Ok(()) }
}

fn visible_unveiled(what: &'static str, text: &str) -> Result<(), Malformed> {
    visible_ascii(what, text)?;
    unveiled(what, text)
}

macro_rules! protocol_string {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:path, $debug:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Takes a value that obeys the rule of its type.
            pub fn parse(text: impl Into<String>) -> Result<Self, Malformed> {
                let text = text.into();
                $rule($what, &text)?;
                Ok(Self(text))
            }

            /// A value read back from where a parsed one was stored.
            pub(crate) fn stored(text: String) -> Self {
                Self(text)
            }

            /// The value to the letter.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        protocol_string!(@debug $debug $name);
    };
    (@debug clear $name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
    // Names of people never reach a log by accident: neither Debug nor Display tells them.
    (@debug hidden $name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(hidden)"))
            }
        }
    };
}

protocol_string!(
    /// A `sub`: who, as the provider or one client knows them (OpenID Connect Core 2).
    Subject, "a sub", unveiled, hidden
);
protocol_string!(
    /// A `sid`: a session, as the provider or one client knows it; unique within its issuer only (BCL 2.1).
    Sid, "a sid", visible_unveiled, hidden
);
protocol_string!(
    /// A `client_id`: a relying party's name at its issuer.
    ClientId, "a client_id", visible_ascii, clear
);
protocol_string!(
    /// The provider's own name for a session that has no `sid` any client saw.
    ProviderKey, "a key", unveiled, hidden
);
protocol_string!(
    /// Another name a person can be found by, such as `email:alice@example.org`.
    Alias, "an alias", bounded, hidden
);
protocol_string!(
    /// A `jti`: the unique name of one JWT (RFC 7519 4.1.7).
    Jti, "a jti", bounded, clear
);
protocol_string!(
    /// The issuer's short id in paths, such as `main`.
    IssuerId, "an issuer id", short_id, clear
);
protocol_string!(
    /// An issuer identifier to the letter: an URL without query and fragment (OpenID Connect Core 2).
    Issuer, "an issuer", issuer_url, clear
);

/// First path segments that are not issuers.
const RESERVED: [&str; 12] =
    ["v1", "healthz", "readyz", "metrics", "console", "openapi", "static", "assets", "docs", "edge", "admin", "login"];

fn short_id(what: &'static str, text: &str) -> Result<(), Malformed> {
    let letter = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit();
    let legal =
        matches!(text.as_bytes(), [first, rest @ ..] if letter(*first) && rest.len() < 63 && rest.iter().all(|o| letter(*o) || *o == b'-'));
    match legal {
        true if RESERVED.contains(&text) => Err(Malformed { what, why: "is a reserved word" }),
        true => Ok(()),
        false => Err(Malformed { what, why: "must be 1 to 63 of a-z, 0-9 and '-', and not begin with '-'" }),
    }
}

fn issuer_url(what: &'static str, text: &str) -> Result<(), Malformed> {
    const WHY: &str = "must be an absolute http(s) URL without user, query and fragment";
    bounded(what, text)?;
    let url = url::Url::parse(text).map_err(|_| Malformed { what, why: WHY })?;
    let plain = matches!(url.scheme(), "https" | "http")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && !text.contains(['?', '#', ' ']);
    if plain { Ok(()) } else { Err(Malformed { what, why: WHY }) }
}

/// An internal id: a ULID, so that ids sort by the time they were made.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(String);

impl Id {
    /// An id from its time and 80 random bits (the upper bits of `random` are ignored).
    pub fn from_parts(now: Timestamp, random: u128) -> Self {
        Self(ulid::Ulid::from_parts(now.millis().unsigned_abs(), random).to_string())
    }
}

macro_rules! internal_id {
    ($($(#[$doc:meta])* $name:ident;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The id as it is written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<Id> for $name {
            fn from(id: Id) -> Self {
                Self(id.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )* };
}

/// What is read back, or named by a caller.
macro_rules! read_back {
    ($($name:ident),*) => { $(
        impl $name {
            /// Reads an id a caller names; any other text simply names nothing.
            pub fn parse(text: &str) -> Option<Self> {
                let legal = text.len() == 26 && text.bytes().all(|o| o.is_ascii_digit() || o.is_ascii_uppercase());
                legal.then(|| Self(text.to_owned()))
            }

            pub(crate) fn stored(text: String) -> Self {
                Self(text)
            }
        }
    )* };
}

read_back!(
    SessionId,
    ParticipantId,
    GrantId,
    EventId,
    DeliveryId,
    AttemptId,
    ApiTokenId,
    AuditId,
    WorkId,
    CutOffId,
    DenialId,
    GapId,
    ReplicaId,
    AlarmId
);

internal_id! {
    /// A session's row.
    SessionId;
    /// A participant's row.
    ParticipantId;
    /// A grant: a family of refresh tokens.
    GrantId;
    /// A registered refresh token.
    RefreshTokenId;
    /// A registered access token.
    AccessTokenId;
    /// An event: a committed logout.
    EventId;
    /// A delivery, stable over all its attempts.
    DeliveryId;
    /// One attempt of a delivery.
    AttemptId;
    /// An alarm.
    AlarmId;
    /// An entry in the account of deliveries.
    EntryId;
    /// One request, in the log.
    RequestId;
    /// An API token's identity, which outlives its value.
    ApiTokenId;
    /// A cut-off.
    CutOffId;
    /// An entry of the denylist.
    DenialId;
    /// A gap.
    GapId;
    /// A work: what is done page by page.
    WorkId;
    /// An audit record.
    AuditId;
    /// A process among those that share a database, from its start to its end.
    ReplicaId;
}

/// A SHA-256 digest: all that is kept of a token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// A digest computed elsewhere.
    pub const fn from_octets(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    /// Reads base64url without padding, as `token_sha256` carries it.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|octets| octets.try_into().ok())
            .map(Self)
            .ok_or(Malformed { what: "a token_sha256", why: "must be 32 octets in base64url without padding" })
    }

    /// The octets.
    pub const fn octets(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use base64::Engine as _;
        f.write_str(&base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sid_may_hold_any_printable_ascii_and_nothing_else() {
        for legal in ["a", " ", "a b\"'%+;/\\", &"x".repeat(255)] {
            assert!(Sid::parse(legal).is_ok(), "{legal}");
        }
        for illegal in ["", "é", "a\nb", "a\0b", &"x".repeat(256)] {
            assert!(Sid::parse(illegal).is_err(), "{illegal}");
        }
    }

    #[test]
    fn nobody_is_called_as_somebody_who_was_erased() {
        let erased = format!("~{}", "aB3_-".repeat(9).split_at(43).0);
        assert!(Subject::parse(&*erased).is_err() && Sid::parse(&*erased).is_err() && ProviderKey::parse(&*erased).is_err());
        for other in [format!("{erased}x"), erased.replacen('~', "-", 1), erased.replace('B', "."), "~".to_owned()] {
            assert!(Subject::parse(&*other).is_ok() && Sid::parse(&*other).is_ok(), "{other}");
        }
    }

    #[test]
    fn a_subject_counts_characters_not_octets() {
        assert!(Subject::parse("é".repeat(255)).is_ok());
        assert!(Subject::parse("é".repeat(256)).is_err());
        assert!(Subject::parse("a\u{0}b").is_err());
    }

    #[test]
    fn an_issuer_id_is_never_a_reserved_first_path_segment() {
        for legal in ["main", "a", "0", "t-1", &"a".repeat(63)] {
            assert!(IssuerId::parse(legal).is_ok(), "{legal}");
        }
        for illegal in ["", "-a", "A", "a_b", "v1", "metrics", &"a".repeat(64)] {
            assert!(IssuerId::parse(illegal).is_err(), "{illegal}");
        }
    }

    #[test]
    fn an_issuer_has_no_query_no_fragment_and_no_user() {
        assert!(Issuer::parse("https://op.example/t1").is_ok());
        for illegal in [
            "op.example",
            "https://op.example/?a",
            "https://op.example/#a",
            "https://u@op.example",
            "ftp://op.example",
            "https://op.example/?",
        ] {
            assert!(Issuer::parse(illegal).is_err(), "{illegal}");
        }
    }

    #[test]
    fn a_person_is_never_written_by_debug() {
        let person = (Subject::parse("alice").unwrap(), Sid::parse("s-1").unwrap());
        assert_eq!(format!("{person:?}"), "(Subject(hidden), Sid(hidden))");
    }

    #[test]
    fn ids_sort_by_the_time_they_were_made() {
        let at = |millis| SessionId::from(Id::from_parts(Timestamp::from_millis(millis), 0));
        assert!(at(1) < at(2) && at(2) < at(1_800_000_000_000));
        assert_eq!(SessionId::parse(at(5).as_str()), Some(at(5)));
        assert_eq!(SessionId::parse("'; DROP TABLE"), None);
    }
}
