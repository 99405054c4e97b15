//! Signing keys as the register knows them.

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
    }
}

/// A signing key as it is stored: the private half sealed.
#[derive(Clone, Debug)]
pub struct KeyRecord {
    /// Whose key.
    pub issuer: IssuerId,
    /// Its name in JOSE headers: the RFC 7638 thumbprint.
    pub kid: String,
    /// One key, one algorithm (RFC 8725 3.1).
    pub alg: SigningAlg,
    /// Where it stands in its life.
    pub state: KeyState,
    /// The public half as a JWK in JSON.
    pub public_jwk: String,
    /// The private half, sealed.
    pub sealed: Vec<u8>,
    /// When it was made.
    pub created_at: Timestamp,
}
