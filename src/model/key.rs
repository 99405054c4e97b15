//! Signing keys as the register knows them.

use std::time::Duration;

use super::{IssuerId, Timestamp};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every value, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word for it on the API and in the database.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// Reads the word.
            pub fn parse(word: &str) -> Result<Self, $crate::model::Malformed> {
                match word {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($crate::model::Malformed { what: $what, why: concat!("must be one of", $(" ", $word,)*) }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// The algorithms logout tokens are signed with. `HS*`, `ES512` and `none` are not among them.
    SigningAlg, "a signing algorithm" {
        /// RSASSA-PKCS1-v1_5 with SHA-256: what a client gets that registered nothing (BCL 2.6, Registration 2).
        Rs256 = "RS256",
        /// RSASSA-PKCS1-v1_5 with SHA-384.
        Rs384 = "RS384",
        /// RSASSA-PKCS1-v1_5 with SHA-512.
        Rs512 = "RS512",
        /// RSASSA-PSS with SHA-256.
        Ps256 = "PS256",
        /// RSASSA-PSS with SHA-384.
        Ps384 = "PS384",
        /// RSASSA-PSS with SHA-512.
        Ps512 = "PS512",
        /// ECDSA on P-256 with SHA-256.
        Es256 = "ES256",
        /// ECDSA on P-384 with SHA-384.
        Es384 = "ES384",
        /// Ed25519 (RFC 8037).
        EdDsa = "EdDSA",
    }
}

words! {
    /// Where a key stands in its life.
    KeyState, "a key state" {
        /// Signs. One per issuer and algorithm.
        Active = "active",
        /// Published, not signing yet.
        Next = "next",
        /// No longer signing, still published.
        Retired = "retired",
        /// No longer published; its private half is destroyed, its public half still checks what it signed.
        Withdrawn = "withdrawn",
    }
}

words! {
    /// Where a key came from.
    KeyOrigin, "an origin" {
        /// It was made here, and its successors are.
        Made = "made",
        /// It is the provider's own, which changes it.
        Imported = "imported",
    }
}

/// A signing key as it is stored: the private half sealed, and empty once it is withdrawn.
#[derive(Clone, Debug)]
pub struct KeyRecord {
    /// Whose key.
    pub issuer: IssuerId,
    /// Its name here: the RFC 7638 thumbprint, or for an imported key the name its provider gave it.
    pub kid: String,
    /// One key, one algorithm (RFC 8725 3.1).
    pub alg: SigningAlg,
    /// Where it stands in its life.
    pub state: KeyState,
    /// The public half as a JWK in JSON.
    pub public_jwk: String,
    /// The private half, sealed.
    pub sealed: Vec<u8>,
    /// Where it came from.
    pub origin: KeyOrigin,
    /// The name the provider publishes it under, where relying parties look for it there.
    pub published_kid: Option<String>,
    /// Since when the provider publishes it without interruption.
    pub seen_at: Option<Timestamp>,
    /// When the provider was last seen to publish it.
    pub last_seen_at: Option<Timestamp>,
    /// When it was made or imported: since then it is in our own set.
    pub created_at: Timestamp,
    /// When it began to sign.
    pub active_at: Option<Timestamp>,
    /// When it ceased to sign.
    pub retired_at: Option<Timestamp>,
    /// When it ceased to be published.
    pub withdrawn_at: Option<Timestamp>,
}

impl KeyRecord {
    /// A key nobody has seen yet.
    pub fn new(issuer: IssuerId, kid: String, alg: SigningAlg, state: KeyState, public_jwk: String, created_at: Timestamp) -> Self {
        Self {
            issuer,
            kid,
            alg,
            state,
            public_jwk,
            sealed: Vec::new(),
            origin: KeyOrigin::Made,
            published_kid: None,
            seen_at: None,
            last_seen_at: None,
            created_at,
            active_at: (state == KeyState::Active).then_some(created_at),
            retired_at: None,
            withdrawn_at: None,
        }
    }

    /// Its name in JOSE headers: the one relying parties find it by.
    pub fn signing_kid(&self) -> &str {
        self.published_kid.as_deref().unwrap_or(&self.kid)
    }
}

/// Whether and how the provider publishes a key of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Our name for it.
    pub kid: String,
    /// Its name there, if it has one; none where it is not published at all.
    pub found: Option<Option<String>>,
}

/// When keys begin, cease and are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPolicy {
    /// How long a key made here signs before its successor is made; none makes none.
    pub rotate_after: Option<Duration>,
    /// The longest a relying party keeps a key set it fetched.
    pub cache: Duration,
    /// How long the public half of a withdrawn key is kept to check what it signed.
    pub hints: Duration,
    /// From a token's `iat` to its `exp`.
    pub token_lifetime: Duration,
}
