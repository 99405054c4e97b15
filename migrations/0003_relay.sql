-- Providers that tell us and are told, keys that come and go, the wider network.

-- Where a provider says what it is, and how its own logout tokens are taken.
ALTER TABLE issuers ADD COLUMN discovery BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE issuers ADD COLUMN provider_jwks_uri TEXT;
ALTER TABLE issuers ADD COLUMN published_at TEXT NOT NULL DEFAULT 'here' CHECK (published_at IN ('here', 'provider'));
ALTER TABLE issuers ADD COLUMN upstream_mode TEXT NOT NULL DEFAULT 'relay' CHECK (upstream_mode IN ('relay', 'cascade'));
ALTER TABLE issuers ADD COLUMN upstream_client_id TEXT;
ALTER TABLE issuers ADD COLUMN upstream_alg TEXT NOT NULL DEFAULT 'RS256';
ALTER TABLE issuers ADD COLUMN relay_token TEXT NOT NULL DEFAULT 'verbatim_then_own' CHECK (relay_token IN ('verbatim_then_own', 'own'));
ALTER TABLE issuers ADD COLUMN require_exp BOOLEAN NOT NULL DEFAULT TRUE;
-- How its provider is told that a session ended: JSON of the vault's own, and its secrets sealed apart.
ALTER TABLE issuers ADD COLUMN provider_logout TEXT;
ALTER TABLE issuers ADD COLUMN provider_logout_sealed TEXT;

-- What a provider published when it was asked last; served while it is away, with a bound.
CREATE TABLE provider_documents (
    issuer_id  TEXT   PRIMARY KEY REFERENCES issuers (id),
    jwks_uri   TEXT   NOT NULL,
    metadata   TEXT,
    jwks       TEXT   NOT NULL,
    fetched_at BIGINT NOT NULL
);
-- Keys of a provider's that an operator no longer wants published or believed.
CREATE TABLE dropped_keys (
    issuer_id  TEXT   NOT NULL REFERENCES issuers (id),
    kid        TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (issuer_id, kid)
);

-- Where a key came from, under which name relying parties find it, and the stations of its life.
ALTER TABLE signing_keys ADD COLUMN origin TEXT NOT NULL DEFAULT 'made' CHECK (origin IN ('made', 'imported'));
ALTER TABLE signing_keys ADD COLUMN published_kid TEXT;
ALTER TABLE signing_keys ADD COLUMN seen_at BIGINT;
ALTER TABLE signing_keys ADD COLUMN last_seen_at BIGINT;
ALTER TABLE signing_keys ADD COLUMN active_at BIGINT;
ALTER TABLE signing_keys ADD COLUMN retired_at BIGINT;
ALTER TABLE signing_keys ADD COLUMN withdrawn_at BIGINT;
UPDATE signing_keys SET active_at = created_at WHERE state = 'active';
CREATE UNIQUE INDEX signing_keys_next ON signing_keys (issuer_id, alg) WHERE state = 'next';

-- What a client asks of the network: secrets sealed, what may be shown in clear.
ALTER TABLE clients ADD COLUMN tls_sealed TEXT;
ALTER TABLE clients ADD COLUMN tls_cert_pem TEXT;
ALTER TABLE clients ADD COLUMN tls_expires_at BIGINT;
ALTER TABLE clients ADD COLUMN tls_server_name TEXT;
ALTER TABLE clients ADD COLUMN headers_sealed TEXT;
ALTER TABLE clients ADD COLUMN header_names TEXT NOT NULL DEFAULT '';

-- Deliveries of other kinds. A notice to the provider has no participant: the session stands in its place, and no client.
DROP INDEX deliveries_once;
ALTER TABLE deliveries ADD COLUMN told TEXT NOT NULL DEFAULT 'logout_token' CHECK (told IN ('logout_token', 'relay', 'provider', 'revocation'));
ALTER TABLE deliveries DROP COLUMN kind;
ALTER TABLE deliveries RENAME COLUMN told TO kind;
CREATE UNIQUE INDEX deliveries_once ON deliveries (event_id, kind, participant_id);

-- The provider's own token of a relayed delivery, sealed, while it may be sent unchanged.
CREATE TABLE relayed_tokens (
    delivery_id TEXT   PRIMARY KEY REFERENCES deliveries (id),
    sealed      TEXT   NOT NULL,
    expires_at  BIGINT NOT NULL
);
CREATE INDEX relayed_tokens_by_age ON relayed_tokens (expires_at);

-- Logout tokens a provider sent, with what they did (BCL 2.6 (8)): an identical repeat of one that succeeded is a success.
CREATE TABLE received_tokens (
    issuer_id  TEXT   NOT NULL REFERENCES issuers (id),
    audience   TEXT   NOT NULL,
    jti        TEXT   NOT NULL,
    digest     TEXT   NOT NULL,
    event_id   TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (issuer_id, audience, jti)
);
CREATE INDEX received_tokens_by_age ON received_tokens (expires_at);
