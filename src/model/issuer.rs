//! An issuer: one provider whose sessions end here.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::{ClientId, Issuer, IssuerId, Timestamp};
use crate::model::client::Network;
use crate::model::effects::ProviderWord;
use crate::model::key::{SigningAlg, words};
use crate::model::provider_logout::{ClientAuth, ProviderLogout};

words! {
    /// Which of its sessions end here by themselves.
    Expiry, "an expiry" {
        /// None: the provider tells of every end.
        None = "none",
        /// Those whose `expires_at` has passed.
        Absolute = "absolute",
        /// Those whose `expires_at` or `idle_expires_at` has passed: the provider reports every use.
        Authoritative = "authoritative",
    }
}

words! {
    /// Where relying parties get the keys they check its tokens with.
    PublishedAt, "a place of publication" {
        /// From us: the issuer's `jwks_uri` leads here, or relying parties are told to ask here.
        Here = "here",
        /// From the provider, which publishes our keys among its own.
        Provider = "provider",
    }
}

words! {
    /// Whom a provider's logout token speaks to.
    UpstreamMode, "an upstream mode" {
        /// One of its clients: that client's participation ends.
        Relay = "relay",
        /// This server as a client of its own: the whole session ends.
        Cascade = "cascade",
    }
}

words! {
    /// Whose token a client is sent when its provider's was taken in.
    RelayToken, "a relayed token" {
        /// The provider's as long as it is good, ours afterwards.
        VerbatimThenOwn = "verbatim_then_own",
        /// Ours from the first attempt.
        Own = "own",
    }
}

impl Expiry {
    /// Whether the provider has to be told of what ends by its age here. One that reports every use ended it by its own account.
    pub const fn provider_word(self) -> ProviderWord {
        match self {
            Self::None | Self::Absolute => ProviderWord::Due,
            Self::Authoritative => ProviderWord::Known,
        }
    }
}

/// Where its provider says what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderSource {
    /// Its metadata are at `/.well-known/openid-configuration` (Discovery 4) and name its `jwks_uri`.
    pub discovery: bool,
    /// Its `jwks_uri`, where it has no metadata or others must not be believed.
    pub jwks_uri: Option<Url>,
    /// Where relying parties get the keys.
    pub published_at: PublishedAt,
}

impl ProviderSource {
    /// Nothing is known of the provider.
    pub const NONE: Self = Self { discovery: false, jwks_uri: None, published_at: PublishedAt::Here };

    /// Whether the provider's keys can be had.
    pub const fn is_known(&self) -> bool {
        self.discovery || self.jwks_uri.is_some()
    }
}

/// How logout tokens of its provider's are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Whom they speak to.
    pub mode: UpstreamMode,
    /// In a cascade, the name the provider knows this server by.
    pub client_id: Option<ClientId>,
    /// In a cascade, what they are signed with; in a relay each client has its own.
    pub alg: SigningAlg,
    /// Whose token a client is sent.
    pub relay_token: RelayToken,
    /// A token without `exp` is refused (BCL 2.4); some providers send none.
    pub require_exp: bool,
}

impl Upstream {
    /// What holds unless an issuer says otherwise.
    pub const DEFAULT: Self = Self {
        mode: UpstreamMode::Relay,
        client_id: None,
        alg: SigningAlg::Rs256,
        relay_token: RelayToken::VerbatimThenOwn,
        require_exp: true,
    };
}

words! {
    /// The `typ` an issuer's access tokens must have.
    AccessTokenTyp, "a typ of access tokens" {
        /// The explicit type (RFC 9068 2.1).
        AtJwt = "at+jwt",
        /// Also tokens of providers older than that: `JWT`, or none.
        Jwt = "JWT",
    }
}

words! {
    /// What is answered about an opaque access token while its provider is away.
    WhenAway, "an answer while the provider is away" {
        /// That nothing can be said now: 503.
        Unavailable = "unavailable",
        /// That it is not active.
        Inactive = "inactive",
    }
}

/// How an issuer's access tokens are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessTokens {
    /// Their `typ`.
    pub typ: AccessTokenTyp,
    /// One of these must be in their `aud`; none: any audience will do.
    pub audiences: Vec<String>,
    /// Whether a `sid` that is not registered makes one inactive.
    pub require_known_session: bool,
    /// How the provider is asked about those that are opaque.
    pub introspect_upstream: Option<IntrospectUpstream>,
}

impl AccessTokens {
    /// What holds unless an issuer says otherwise.
    pub const DEFAULT: Self =
        Self { typ: AccessTokenTyp::AtJwt, audiences: Vec::new(), require_known_session: false, introspect_upstream: None };
}

/// An endpoint of the provider's, and as whom it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderEndpoint {
    /// Where it is; none: where the provider's metadata say.
    pub url: Option<Url>,
    /// As whom; none, for revocation: as the client whose token it is.
    pub client_id: Option<ClientId>,
    /// How the secret is shown.
    pub method: ClientAuth,
    /// The secret, sealed.
    pub sealed: Option<String>,
}

/// How a provider is asked about opaque access tokens (RFC 7662).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectUpstream {
    /// Where, and as whom.
    pub endpoint: ProviderEndpoint,
    /// What is answered while it is away.
    pub when_away: WhenAway,
}

/// What a provider published when it was asked last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderDocument {
    /// Whose provider.
    pub issuer: IssuerId,
    /// Where its keys are.
    pub jwks_uri: Url,
    /// Its metadata as JSON, if they were asked for.
    pub metadata: Option<String>,
    /// Its public signing keys that may be believed, as a JWK Set in JSON.
    pub jwks: String,
    /// When it answered.
    pub fetched_at: Timestamp,
}

impl ProviderDocument {
    /// Whether it is still served and believed while the provider is away.
    pub fn is_believed(&self, now: Timestamp) -> bool {
        self.fetched_at.plus(DOCUMENT_STALE_MAX) > now
    }
}

/// How long what a provider published is served while it is away: 7 days.
pub const DOCUMENT_STALE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a session may live, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// When it ends at the latest.
    pub expires_at: Timestamp,
    /// When it ends unless it is used.
    pub idle_expires_at: Option<Timestamp>,
}

/// Who says how something is registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ManagedBy {
    /// Whoever may administer, by the API.
    #[default]
    Api,
    /// The configuration declares it, and nobody else changes it.
    Configuration,
}

/// A registered issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerRecord {
    /// Its short id in paths.
    pub id: IssuerId,
    /// Its identifier to the letter: the `iss` of every token signed for it.
    pub issuer: Issuer,
    /// The algorithms that have a key.
    pub signing_algs: Vec<SigningAlg>,
    /// How long a session without `expires_at` is taken to live.
    pub session_max_age: Duration,
    /// Which sessions end here by themselves.
    pub expiry: Expiry,
    /// Exceptions from the address rule for its clients, inside the deployment's ceiling.
    pub network: Network,
    /// Where its provider says what it is.
    pub source: ProviderSource,
    /// How its provider's logout tokens are taken.
    pub upstream: Upstream,
    /// How its provider is told that a session ended here; none where it is not.
    pub provider_logout: Option<Arc<ProviderLogout>>,
    /// How its access tokens are known.
    pub access_tokens: AccessTokens,
    /// Where refresh tokens that are revoked here are revoked too (RFC 7009); none where they are not.
    pub revocation: Option<ProviderEndpoint>,
    /// The sealed key the secrets of its subjects are derived from; none where it has not opted in.
    pub subject_secrets: Option<String>,
    /// Who says so.
    pub managed_by: ManagedBy,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts changes, for `ETag` and `If-Match`.
    pub version: i64,
}

impl IssuerRecord {
    /// Whether an access token that nobody registered can be good: one that the provider signed, or that it answers for.
    pub const fn believes_its_provider_s_tokens(&self) -> bool {
        self.source.is_known() || self.access_tokens.introspect_upstream.is_some()
    }
}

/// How long a session without `expires_at` lives unless its issuer says otherwise.
pub const SESSION_MAX_AGE_DEFAULT: Duration = Duration::from_secs(30 * 24 * 3600);
