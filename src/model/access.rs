//! Who may call, and what each role may do.

use super::key::words;
use super::limits::Load;
use super::{ApiTokenId, ClientId, IssuerId, Timestamp};

words! {
    /// The role an API token carries.
    Role, "a role" {
        /// An identity provider: reports, and ends what it reported.
        Provider = "provider",
        /// A gateway: asks whether tokens are good.
        Gateway = "gateway",
        /// A relying party: sees its own deliveries.
        Client = "client",
        /// Reads and kills.
        Operator = "operator",
        /// Reads everything, the audit trail included.
        Auditor = "auditor",
        /// All of it.
        Admin = "admin",
    }
}

/// What a route asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Report sessions, participants and tokens.
    Report,
    /// Read sessions and subjects.
    ReadSessions,
    /// End sessions, participations and tokens.
    Kill,
    /// Undo a logout, lift a cut-off, take something off the denylist.
    Undo,
    /// Read receipts and deliveries, ordered cut-offs and the denylist.
    ReadLogouts,
    /// Read deliveries; a client its own.
    ReadDeliveries,
    /// Ask whether a token is active.
    Introspect,
    /// Revoke a token without ending its session.
    RevokeTokens,
    /// Learn the secrets of subjects, and change them.
    SubjectSecrets,
    /// Pause and suspend clients, cancel and replay deliveries.
    Operate,
    /// Have a delivery tried again; a client its own.
    RetryDeliveries,
    /// Send a client a token about nobody; a client itself.
    TestClients,
    /// Read issuers, clients and public keys.
    ReadRegistry,
    /// Change issuers and clients.
    Administer,
    /// Mint, rotate and revoke API tokens.
    ManageApiTokens,
    /// List API tokens.
    ReadApiTokens,
    /// Rotate, import and withdraw keys, and seal secrets anew.
    ManageKeys,
    /// Make a person nobody.
    Erase,
    /// Read the audit trail.
    ReadAudit,
    /// Scrape metrics.
    ReadMetrics,
}

impl Permission {
    /// What a request that needs it is counted as.
    pub const fn load(self) -> Load {
        match self {
            Self::Kill | Self::RevokeTokens => Load::Ending,
            Self::Report
            | Self::ReadSessions
            | Self::Undo
            | Self::ReadLogouts
            | Self::ReadDeliveries
            | Self::Introspect
            | Self::SubjectSecrets
            | Self::Operate
            | Self::RetryDeliveries
            | Self::TestClients
            | Self::ReadRegistry
            | Self::Administer
            | Self::ManageApiTokens
            | Self::ReadApiTokens
            | Self::ManageKeys
            | Self::Erase
            | Self::ReadAudit
            | Self::ReadMetrics => Load::Other,
        }
    }
}

impl Permission {
    /// Whether the value of an API token that was replaced is good for it while it overlaps. With what outlasts that overlap, whoever found the old value
    /// could stay.
    pub const fn ends_with_an_overlap(self) -> bool {
        !matches!(self, Self::ManageApiTokens | Self::ManageKeys)
    }
}

impl Role {
    /// Whether a token of this role may do it, inside its issuer.
    pub const fn may(self, permission: Permission) -> bool {
        use Permission as P;
        match self {
            Self::Provider => {
                matches!(
                    permission,
                    P::Report
                        | P::ReadSessions
                        | P::Kill
                        | P::ReadLogouts
                        | P::ReadDeliveries
                        | P::Introspect
                        | P::RevokeTokens
                        | P::SubjectSecrets
                        | P::Erase
                )
            }
            Self::Gateway => matches!(permission, P::Introspect),
            Self::Client => matches!(permission, P::ReadDeliveries | P::RetryDeliveries | P::TestClients),
            Self::Operator => matches!(
                permission,
                P::ReadSessions
                    | P::Kill
                    | P::Undo
                    | P::RevokeTokens
                    | P::ReadLogouts
                    | P::ReadDeliveries
                    | P::ReadRegistry
                    | P::Operate
                    | P::RetryDeliveries
                    | P::TestClients
            ),
            Self::Auditor => {
                matches!(permission, P::ReadSessions | P::ReadLogouts | P::ReadDeliveries | P::ReadRegistry | P::ReadAudit | P::ReadMetrics)
            }
            // Whoever administers could log in as anybody.
            Self::Admin => !matches!(permission, P::SubjectSecrets),
        }
    }

    /// Whether a token of this role must be bound to an issuer.
    pub const fn needs_issuer(self) -> bool {
        matches!(self, Self::Provider | Self::Gateway | Self::Client)
    }
}

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The token's identity; the bootstrap token and the server itself have fixed ones.
    pub identity: String,
    /// Its role.
    pub role: Role,
    /// The issuer it is bound to.
    pub issuer: Option<IssuerId>,
    /// The client it is bound to.
    pub client_id: Option<ClientId>,
    /// A `provider` that may end a client's or everybody's sessions.
    pub may_mass_kill: bool,
    /// Where the request came from.
    pub remote: Option<String>,
    /// What it says of itself for the audit trail.
    pub behalf: Behalf,
    /// What binds the API token it showed.
    pub token: OwnToken,
}

/// What binds an API token that was shown, beside what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnToken {
    /// Which of its values was shown.
    pub edition: Edition,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// How many requests it may send in a second, where that is not what all may.
    pub rate_per_s: Option<u16>,
}

impl OwnToken {
    /// Of who showed none, or the one of the configuration.
    pub const NONE: Self = Self { edition: Edition::Current, expires_at: None, rate_per_s: None };
}

/// On whose behalf something is asked for, and why, as the caller says; nobody checks it, the audit trail keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behalf {
    /// On whose behalf.
    pub actor: Option<String>,
    /// Why.
    pub note: Option<String>,
}

impl Caller {
    /// The identity of `LOGOUTD_ADMIN_TOKEN`.
    pub const BOOTSTRAP: &'static str = "bootstrap";

    /// The identity of the server where it acts by itself.
    pub const ITSELF: &'static str = "logoutd";

    /// The server at an issuer, where it acts by itself as an operator could.
    pub fn itself(issuer: &IssuerId) -> Self {
        Self::without_token(Self::ITSELF, Role::Operator, Some(issuer))
    }

    /// The server where no issuer is involved.
    pub fn server() -> Self {
        Self::without_token(Self::ITSELF, Role::Operator, None)
    }

    /// The identity of the configuration, where it declares what is registered.
    pub const CONFIGURATION: &'static str = "configuration";

    /// The configuration, which whoever runs the process has written.
    pub fn configuration() -> Self {
        Self::without_token(Self::CONFIGURATION, Role::Admin, None)
    }

    /// The identity of an issuer's provider where it speaks by its own signature instead of by an API token.
    pub const PROVIDER: &'static str = "provider";

    /// An issuer's provider, known by its signature.
    pub fn provider(issuer: &IssuerId) -> Self {
        Self::without_token(Self::PROVIDER, Role::Provider, Some(issuer))
    }

    /// Who showed no API token, from nowhere and for nobody else.
    fn without_token(identity: &str, role: Role, issuer: Option<&IssuerId>) -> Self {
        Self {
            identity: identity.to_owned(),
            role,
            issuer: issuer.cloned(),
            client_id: None,
            may_mass_kill: false,
            remote: None,
            behalf: Behalf::default(),
            token: OwnToken::NONE,
        }
    }

    /// A registered client, known by credentials of its own.
    pub fn client(issuer: &IssuerId, client_id: &ClientId, remote: Option<String>) -> Self {
        let known = Self::without_token(&format!("client:{client_id}"), Role::Client, Some(issuer));
        Self { client_id: Some(client_id.clone()), remote, ..known }
    }

    /// Whether this caller may end what concerns a client's users, or everybody.
    pub const fn may_end_many(&self) -> bool {
        match self.role {
            Role::Operator | Role::Admin => true,
            Role::Provider | Role::Gateway | Role::Client | Role::Auditor => self.may_mass_kill,
        }
    }

    /// Whether the limit of all who ask about an issuer holds this caller too. Operators and administrators come when something is wrong: whoever could fill
    /// that bucket could keep them out.
    pub const fn is_held_by_issuer(&self) -> bool {
        match self.role {
            Role::Operator | Role::Admin => false,
            Role::Provider | Role::Gateway | Role::Client | Role::Auditor => true,
        }
    }

    /// Whether this caller may do it at that issuer (none: to something that belongs to no issuer).
    pub fn may(&self, permission: Permission, issuer: Option<&IssuerId>) -> bool {
        let in_reach = match (&self.issuer, issuer) {
            (None, _) => true,
            (Some(own), Some(asked)) => own == asked,
            (Some(_), None) => false,
        };
        in_reach && self.role.may(permission)
    }
}

impl ApiTokenRecord {
    /// What every API token that was minted begins with.
    pub const PREFIX: &'static str = "ldt_";
}

/// An API token as it is stored and listed: never its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiTokenRecord {
    /// Its identity.
    pub id: ApiTokenId,
    /// Its role.
    pub role: Role,
    /// The issuer it is bound to.
    pub issuer: Option<IssuerId>,
    /// The client it is bound to.
    pub client_id: Option<ClientId>,
    /// A `provider` that may end a client's or everybody's sessions.
    pub may_mass_kill: bool,
    /// When it was minted.
    pub created_at: Timestamp,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// How many requests it may send in a second, where that is not what all may.
    pub rate_per_s: Option<u16>,
    /// When its secret was last replaced.
    pub rotated_at: Option<Timestamp>,
    /// Until when the secret before is good too.
    pub previous_until: Option<Timestamp>,
    /// The last hour in which its secret was shown.
    pub used_at: Option<Timestamp>,
    /// The last hour in which the secret before was shown.
    pub previous_used_at: Option<Timestamp>,
}

/// Which secret of an API token was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Edition {
    /// The one that was handed out last.
    Current,
    /// The one before.
    Previous,
}

impl ApiTokenRecord {
    /// The last hour in which that secret was shown.
    pub const fn last_used(&self, edition: Edition) -> Option<Timestamp> {
        match edition {
            Edition::Current => self.used_at,
            Edition::Previous => self.previous_used_at,
        }
    }
}

/// An API token of which somebody showed a secret that is, or was, one of its.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownApiToken {
    /// The token.
    pub record: ApiTokenRecord,
    /// The secret.
    pub edition: Edition,
}
