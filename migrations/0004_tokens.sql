-- Whether a token is still good: families and their generations, access tokens, cut-offs by order, a denylist, secrets of subjects.

-- What a client's tokens are subject to, and how an issuer's access tokens are known: JSON of the vault's own. Their secrets are sealed apart.
ALTER TABLE clients ADD COLUMN tokens TEXT;
ALTER TABLE clients ADD COLUMN provider_secret_sealed TEXT;
ALTER TABLE clients ADD COLUMN auth_signing_alg TEXT;
ALTER TABLE clients ADD COLUMN introspection_alg TEXT;
ALTER TABLE issuers ADD COLUMN access_tokens TEXT;
ALTER TABLE issuers ADD COLUMN introspection_sealed TEXT;
ALTER TABLE issuers ADD COLUMN revocation TEXT;
ALTER TABLE issuers ADD COLUMN revocation_sealed TEXT;
-- The sealed key that secrets of subjects are derived from, and how often all of them were changed at once.
ALTER TABLE issuers ADD COLUMN subject_secrets_sealed TEXT;
ALTER TABLE issuers ADD COLUMN secrets_epoch BIGINT NOT NULL DEFAULT 0;

-- A family goes from generation to generation, each step a compare-and-swap on its row. What is not the current generation is rotated.
ALTER TABLE grants ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
ALTER TABLE grants ADD COLUMN rotated_at BIGINT;
-- Something happened since that makes the next rotation due, whatever the age of the token.
ALTER TABLE grants ADD COLUMN rotation_due_at BIGINT;
ALTER TABLE refresh_tokens ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
ALTER TABLE refresh_tokens ADD COLUMN superseded_at BIGINT;
-- The token itself, where it has to be shown again: to its provider when it is revoked, or to whoever refreshes at the same moment.
ALTER TABLE refresh_tokens ADD COLUMN sealed TEXT;
ALTER TABLE refresh_tokens ADD COLUMN sealed_until BIGINT;
CREATE INDEX refresh_tokens_sealed ON refresh_tokens (sealed_until) WHERE sealed_until IS NOT NULL;
CREATE INDEX refresh_tokens_with_value ON refresh_tokens (issuer_id, name) WHERE sealed IS NOT NULL;
CREATE INDEX refresh_tokens_superseded ON refresh_tokens (superseded_at) WHERE superseded_at IS NOT NULL AND expires_at IS NULL;
DROP INDEX refresh_tokens_by_grant;
CREATE INDEX refresh_tokens_by_grant ON refresh_tokens (grant_id, generation);

-- Whether any of a session's families at a client is left, revoked ones included.
DROP INDEX grants_by_session;
CREATE INDEX grants_by_session ON grants (session_id, client_id) WHERE session_id IS NOT NULL;

CREATE TABLE access_tokens (
    id         TEXT   PRIMARY KEY,
    issuer_id  TEXT   NOT NULL REFERENCES issuers (id),
    name       TEXT   NOT NULL,
    client_id  TEXT   NOT NULL,
    sub        TEXT,
    session_id TEXT,
    -- The family it was issued with: it goes with it.
    grant_id   TEXT,
    issued_at  BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    scope      TEXT,
    aud        TEXT,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT,
    UNIQUE (issuer_id, name)
);
CREATE INDEX access_tokens_by_age ON access_tokens (expires_at);
CREATE INDEX access_tokens_by_session ON access_tokens (session_id, client_id, expires_at);

-- The newest token of a subject at a client, where only that one is accepted.
CREATE TABLE newest_tokens (
    issuer_id TEXT   NOT NULL REFERENCES issuers (id),
    client_id TEXT   NOT NULL,
    sub       TEXT   NOT NULL,
    kind      TEXT   NOT NULL CHECK (kind IN ('refresh', 'access')),
    name      TEXT   NOT NULL,
    issued_at BIGINT NOT NULL,
    PRIMARY KEY (issuer_id, client_id, sub, kind)
);
CREATE INDEX newest_tokens_by_age ON newest_tokens (issued_at);

-- Access tokens by jti, and sessions by sid, that are refused until they would have expired.
CREATE TABLE denylist (
    id         TEXT   PRIMARY KEY,
    issuer_id  TEXT   NOT NULL REFERENCES issuers (id),
    kind       TEXT   NOT NULL CHECK (kind IN ('jti', 'sid')),
    name       TEXT   NOT NULL,
    expires_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (issuer_id, kind, name)
);
CREATE INDEX denylist_by_age ON denylist (expires_at);
CREATE INDEX denylist_listed ON denylist (issuer_id, created_at, id);

-- A cut-off that somebody ordered ends no session and tells nobody; it makes tokens inactive as long as it lasts.
ALTER TABLE cut_offs ADD COLUMN ordered BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE cut_offs ADD COLUMN expires_at BIGINT;
CREATE INDEX cut_offs_listed ON cut_offs (issuer_id, created_at, id) WHERE ordered;
CREATE INDEX cut_offs_expiring ON cut_offs (expires_at) WHERE expires_at IS NOT NULL;

-- The versions of subjects' secrets; without a row it is the first one. One event changes a secret once.
CREATE TABLE subject_secrets (
    issuer_id TEXT   NOT NULL REFERENCES issuers (id),
    sub       TEXT   NOT NULL,
    version   BIGINT NOT NULL,
    event_id  TEXT,
    PRIMARY KEY (issuer_id, sub)
);

-- What was noticed about tokens of a session, by kind.
CREATE TABLE token_events (
    issuer_id  TEXT   NOT NULL REFERENCES issuers (id),
    session_id TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    client_id  TEXT   NOT NULL,
    seen       BIGINT NOT NULL,
    last_at    BIGINT NOT NULL,
    PRIMARY KEY (session_id, kind, client_id)
);

-- Assertions by which clients said who they are (RFC 7523 3): each is good once.
CREATE TABLE assertions (
    issuer_id  TEXT   NOT NULL REFERENCES issuers (id),
    client_id  TEXT   NOT NULL,
    jti        TEXT   NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (issuer_id, client_id, jti)
);
CREATE INDEX assertions_by_age ON assertions (expires_at);
