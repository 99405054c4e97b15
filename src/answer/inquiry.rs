//! Looking a token up, for all who ask about one: whatever they may then learn of it.
//!
//! A token is found by the digest of its octets, or by what it proves of itself. The `jti` of a JWT is taken unverified only from whoever has verified it:
//! the provider that issued it, or an admin. Anybody else could write somebody else's `jti` into a token of his own.

use super::access;
use crate::http::{AppState, Asker, OauthError};
use crate::model::access::{Caller, Role};
use crate::model::issuer::IssuerRecord;
use crate::model::report::TokenName;
use crate::model::token::{TokenFacts, TokenKind};
use crate::store::{StoreError, TokenRecord};
use crate::token::access_token::own_end;
use crate::token::{digest_of_token, jwt_id, other_spelling};

/// What is believed of a token before it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// What it says: whoever asks has verified it.
    Verified,
    /// Nothing.
    Nothing,
}

impl Trust {
    /// What an asker's word on a token is worth.
    pub const fn of(asker: &Asker) -> Self {
        match asker {
            Asker::Api(Caller { role: Role::Provider | Role::Admin, .. }) => Self::Verified,
            Asker::Api(Caller { role: Role::Gateway | Role::Client | Role::Operator | Role::Auditor, .. }) | Asker::Client(_) => {
                Self::Nothing
            }
        }
    }
}

/// What a token is taken for (RFC 7662 2.1, RFC 7009 2.1): it is looked for as that first. What it is depends on it in nothing.
pub fn hinted(hint: Option<&str>) -> TokenKind {
    match hint {
        Some("access_token") => TokenKind::Access,
        // RFC 7009 2.2: a hint that is not known is ignored.
        Some(_) | None => TokenKind::Refresh,
    }
}

/// The names a token may be registered by, as far as they are believed; first its digest.
pub fn names(token: &str, trust: Trust) -> Vec<TokenName> {
    let jti = match trust {
        Trust::Verified => jwt_id(token).map(TokenName::Jti),
        Trust::Nothing => None,
    };
    [TokenName::Digest(digest_of_token(token.as_bytes()))].into_iter().chain(jti).collect()
}

/// All that is known of a token.
pub async fn inquire(
    app: &AppState,
    issuer: &IssuerRecord,
    token: &str,
    hint: TokenKind,
    trust: Trust,
) -> Result<Option<TokenRecord>, OauthError> {
    let names = names(token, trust);
    let other = match hint {
        TokenKind::Refresh => TokenKind::Access,
        TokenKind::Access => TokenKind::Refresh,
    };
    // Octets are one token's. A `jti` may be two tokens', and is then the refresh token's whatever the hint: it goes second, and in one order.
    let (digest, jti) = names.split_at(1);
    // Whoever holds a token that ECDSA signed can write it in a second way: what is known of one is known of both.
    let twin = other_spelling(token).map(|twin| TokenName::Digest(digest_of_token(twin.as_bytes())));
    for digest in [digest, twin.as_slice()] {
        for kind in [hint, other] {
            if let Some(record) = registered(app, issuer, kind, digest).await? {
                return Ok(Some(with_own_words(app, issuer, token, record).await?));
            }
        }
    }
    for kind in [TokenKind::Refresh, TokenKind::Access] {
        if let Some(record) = registered(app, issuer, kind, jti).await? {
            return Ok(Some(record));
        }
    }
    access::access_token(app, issuer, token).await
}

/// What was registered by its octets says the truth about its own `jti`, which may be on the denylist, and an access token about its own end, which may
/// come before the one it was registered with.
async fn with_own_words(app: &AppState, issuer: &IssuerRecord, token: &str, record: TokenRecord) -> Result<TokenRecord, StoreError> {
    let ends_at = match record.kind {
        TokenKind::Access => own_end(token),
        TokenKind::Refresh => None,
    };
    let expires_at = record.facts.expires_at.into_iter().chain(ends_at).min();
    let record = TokenRecord { facts: TokenFacts { expires_at, ..record.facts }, ..record };
    let Some(jti) = jwt_id(token) else { return Ok(record) };
    let denied_until = record.facts.denied_until.max(app.store.denied_jti(&issuer.id, &jti).await?);
    let facts = TokenFacts { denied_until, ..record.facts };
    Ok(TokenRecord { jti: Some(jti), facts, ..record })
}

async fn registered(
    app: &AppState,
    issuer: &IssuerRecord,
    kind: TokenKind,
    names: &[TokenName],
) -> Result<Option<TokenRecord>, StoreError> {
    if names.is_empty() {
        return Ok(None);
    }
    match kind {
        TokenKind::Refresh => app.store.refresh_token(issuer, names).await,
        TokenKind::Access => app.store.access_token(issuer, names).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_looked_for_by_its_digest_and_by_its_jti_where_that_is_believed() {
        let [digest] = &names("opaque", Trust::Verified)[..] else { panic!("one name") };
        assert_eq!(*digest, TokenName::Digest(digest_of_token(b"opaque")));
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJqdGkiOiJqLTEifQ.AAAA";
        assert!(matches!(&names(jwt, Trust::Verified)[..], [TokenName::Digest(_), TokenName::Jti(jti)] if jti.as_str() == "j-1"));
        assert!(matches!(&names(jwt, Trust::Nothing)[..], [TokenName::Digest(_)]));
    }

    #[test]
    fn a_hint_that_is_not_known_says_nothing() {
        assert_eq!(hinted(Some("access_token")), TokenKind::Access);
        for other in [Some("refresh_token"), Some("saml"), None] {
            assert_eq!(hinted(other), TokenKind::Refresh);
        }
    }
}
