//! Writing and reading logout tokens and security events, and everything cryptographic that takes: signing keys, the sets they are published in, sealing,
//! digests, the audit trail's chain.
//!
//! Owns the shape of a logout token, the keys it is signed with and the one key under which secrets rest. Pure: never asks for the time, never opens a
//! socket, never touches the store; randomness comes from [`Entropy`](crate::seams::Entropy) alone, but for the generation of key pairs, which the
//! cryptographic library draws itself. Never trusts what a token says about the key it should be checked with.
//!
//! Why aws-lc-rs directly: a key is parsed once and then signs for as long as it lives, whereas a JWT library parses it at every call, which costs
//! more than an elliptic signature itself.

pub mod access_token;
pub mod assertion;
pub mod audit;
pub mod client_secret;
pub mod client_secrets;
pub mod digest;
pub mod import;
pub mod introspection;
mod json;
pub mod jwks;
mod jws;
pub mod keyring;
pub mod keys;
pub mod logout_token;
pub mod sealing;
pub mod security_event;
mod spelling;
pub mod subject_secret;
pub mod verify;
mod webhook;

pub use client_secret::{secret_digest, secret_matches};
pub use client_secrets::ClientSecrets;
pub use digest::{digest_of_token, digests_match, jwt_id};
pub use introspection::IntrospectionResponse;
pub use jwks::{JwkRefused, JwkSet, PublicJwk};
pub use keyring::Keyring;
pub use keys::{NewKey, SigningCost, SigningKey, generate};
pub use logout_token::{LogoutToken, Named, Nameless};
pub use sealing::{By, Sealed, SealingKey, Unsealable};
pub use security_event::SessionRevoked;
pub use spelling::other_spelling;
pub use subject_secret::subject_secret;
pub use webhook::webhook_signature;

use crate::model::key::SigningAlg;

/// Why a key could not be made, read or used. Nothing in here tells a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The library made no key pair.
    #[error("no {0} key could be generated")]
    NotGenerated(SigningAlg),
    /// The octets are not a private key that fits the algorithm.
    #[error("the private key is not one that fits {0}")]
    Unfit(SigningAlg),
    /// The stored public half belongs to another private half, algorithm or name: a token signed with it could be verified by nobody.
    #[error("the stored public key is not the other half of the private key")]
    HalvesDiffer,
    /// The library made no signature.
    #[error("the token could not be signed")]
    NotSigned,
    /// The private half could not be unsealed.
    #[error("the private key could not be unsealed")]
    Unsealable(#[from] Unsealable),
    /// The public half is not a public key.
    #[error("the public key could not be read")]
    Jwk(#[from] JwkRefused),
}

/// Base64url without padding, as every part of a JWS and every JWK member is written (RFC 7515 2). Strict: no padding, no stray bits.
const BASE64URL: base64::engine::GeneralPurpose = base64::engine::general_purpose::URL_SAFE_NO_PAD;
