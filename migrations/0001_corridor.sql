-- One text for SQLite and PostgreSQL. Times are milliseconds since 1970, ids are ULIDs, digests and sealed values are base64.
-- The CHECKs repeat the state machine, so that no statement can leave it.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE issuers (
    id                 TEXT    PRIMARY KEY,
    issuer             TEXT    NOT NULL,
    signing_algs       TEXT    NOT NULL,
    session_max_age_ms BIGINT  NOT NULL CHECK (session_max_age_ms > 0),
    allow_networks     TEXT    NOT NULL,
    ca_pem             TEXT,
    created_at         BIGINT  NOT NULL,
    updated_at         BIGINT  NOT NULL,
    deleted_at         BIGINT,
    version            BIGINT  NOT NULL
);
CREATE UNIQUE INDEX issuers_by_issuer ON issuers (issuer) WHERE deleted_at IS NULL;
CREATE INDEX issuers_listed ON issuers (created_at, id);

CREATE TABLE clients (
    issuer_id              TEXT    NOT NULL REFERENCES issuers (id),
    client_id              TEXT    NOT NULL,
    client_name            TEXT,
    backchannel_logout_uri TEXT,
    session_required       BOOLEAN NOT NULL,
    alg                    TEXT    NOT NULL,
    auth_method            TEXT,
    secret_digest          TEXT,
    jwks                   TEXT,
    jwks_uri               TEXT,
    claims                 TEXT    NOT NULL CHECK (claims IN ('both', 'sid', 'sub')),
    typ                    TEXT    NOT NULL CHECK (typ IN ('logout+jwt', 'JWT', 'none')),
    timeout_ms             BIGINT  NOT NULL CHECK (timeout_ms > 0),
    max_in_flight          BIGINT  NOT NULL CHECK (max_in_flight > 0),
    horizon_ms             BIGINT  NOT NULL CHECK (horizon_ms > 0),
    confirm_rejections     BIGINT  NOT NULL CHECK (confirm_rejections >= 0),
    retry_statuses         TEXT    NOT NULL,
    allow_networks         TEXT    NOT NULL,
    ca_pem                 TEXT,
    created_at             BIGINT  NOT NULL,
    updated_at             BIGINT  NOT NULL,
    deleted_at             BIGINT,
    version                BIGINT  NOT NULL,
    PRIMARY KEY (issuer_id, client_id)
);

CREATE TABLE signing_keys (
    issuer_id  TEXT   NOT NULL REFERENCES issuers (id),
    kid        TEXT   NOT NULL,
    alg        TEXT   NOT NULL,
    state      TEXT   NOT NULL CHECK (state IN ('active', 'next', 'retired')),
    public_jwk TEXT   NOT NULL,
    sealed     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (issuer_id, kid)
);
-- One active key for each issuer and algorithm, whoever races.
CREATE UNIQUE INDEX signing_keys_active ON signing_keys (issuer_id, alg) WHERE state = 'active';

CREATE TABLE api_tokens (
    id            TEXT    PRIMARY KEY,
    digest        TEXT    NOT NULL UNIQUE,
    role          TEXT    NOT NULL CHECK (role IN ('provider', 'gateway', 'client', 'operator', 'auditor', 'admin')),
    issuer_id     TEXT    REFERENCES issuers (id),
    client_id     TEXT,
    may_mass_kill BOOLEAN NOT NULL,
    created_at    BIGINT  NOT NULL,
    expires_at    BIGINT,
    revoked_at    BIGINT,
    CHECK (issuer_id IS NOT NULL OR role IN ('operator', 'auditor', 'admin')),
    CHECK ((client_id IS NOT NULL) = (role = 'client'))
);
CREATE INDEX api_tokens_listed ON api_tokens (created_at, id);

CREATE TABLE sessions (
    id              TEXT    PRIMARY KEY,
    issuer_id       TEXT    NOT NULL REFERENCES issuers (id),
    sid             TEXT,
    provider_key    TEXT,
    sub             TEXT,
    started_at      BIGINT  NOT NULL,
    expires_at      BIGINT  NOT NULL,
    idle_expires_at BIGINT,
    device_id       TEXT,
    device_label    TEXT,
    device_ip       TEXT,
    device_agent    TEXT,
    created_at      BIGINT  NOT NULL,
    ended_at        BIGINT,
    ended_by        TEXT,
    ended_offline   BOOLEAN NOT NULL DEFAULT FALSE,
    ended_grave     BOOLEAN NOT NULL DEFAULT FALSE,
    CHECK (sid IS NOT NULL OR provider_key IS NOT NULL OR sub IS NOT NULL),
    CHECK ((ended_at IS NULL) = (ended_by IS NULL))
);
-- Providers reuse a sid after logout, so names are unique among live sessions only.
CREATE UNIQUE INDEX sessions_live_sid ON sessions (issuer_id, sid) WHERE ended_at IS NULL AND sid IS NOT NULL;
CREATE UNIQUE INDEX sessions_live_key ON sessions (issuer_id, provider_key) WHERE ended_at IS NULL AND provider_key IS NOT NULL;
CREATE UNIQUE INDEX sessions_live_implicit ON sessions (issuer_id, sub) WHERE ended_at IS NULL AND sid IS NULL AND provider_key IS NULL;
CREATE INDEX sessions_by_end ON sessions (ended_by) WHERE ended_by IS NOT NULL;
CREATE INDEX sessions_by_sid ON sessions (issuer_id, sid, created_at);
CREATE INDEX sessions_by_key ON sessions (issuer_id, provider_key, created_at);
CREATE INDEX sessions_by_sub ON sessions (issuer_id, sub, created_at);
CREATE INDEX sessions_by_device ON sessions (issuer_id, device_id, created_at);
CREATE INDEX sessions_by_ip ON sessions (issuer_id, device_ip, created_at);
CREATE INDEX sessions_listed ON sessions (issuer_id, created_at, id);

CREATE TABLE session_aliases (
    issuer_id  TEXT NOT NULL,
    alias      TEXT NOT NULL,
    session_id TEXT NOT NULL REFERENCES sessions (id),
    PRIMARY KEY (issuer_id, alias, session_id)
);
CREATE INDEX session_aliases_by_session ON session_aliases (session_id);

CREATE TABLE participants (
    id         TEXT   PRIMARY KEY,
    session_id TEXT   NOT NULL REFERENCES sessions (id),
    issuer_id  TEXT   NOT NULL,
    client_id  TEXT   NOT NULL,
    sid        TEXT   NOT NULL,
    sub        TEXT,
    joined_at  BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    ended_at   BIGINT,
    ended_by   TEXT
);
CREATE UNIQUE INDEX participants_live ON participants (session_id, client_id, sid) WHERE ended_at IS NULL;
CREATE INDEX participants_by_session ON participants (session_id, client_id);
CREATE INDEX participants_by_client_sub ON participants (issuer_id, client_id, sub);
CREATE INDEX participants_by_client_sid ON participants (issuer_id, client_id, sid);
CREATE INDEX participants_by_client ON participants (issuer_id, client_id) WHERE ended_at IS NULL;
CREATE INDEX participants_by_sub ON participants (issuer_id, sub);
CREATE INDEX participants_by_sid ON participants (issuer_id, sid);

CREATE TABLE grants (
    id                TEXT    PRIMARY KEY,
    issuer_id         TEXT    NOT NULL REFERENCES issuers (id),
    client_id         TEXT    NOT NULL,
    sub               TEXT,
    session_id        TEXT,
    origin_session_id TEXT,
    offline           BOOLEAN NOT NULL,
    begun_at          BIGINT  NOT NULL,
    created_at        BIGINT  NOT NULL,
    revoked_at        BIGINT,
    revoked_by        TEXT,
    CHECK (NOT offline OR session_id IS NULL)
);
CREATE INDEX grants_by_session ON grants (session_id) WHERE revoked_at IS NULL;
CREATE INDEX grants_by_origin ON grants (origin_session_id) WHERE revoked_at IS NULL;
CREATE INDEX grants_by_sub ON grants (issuer_id, sub) WHERE revoked_at IS NULL;
CREATE INDEX grants_by_client ON grants (issuer_id, client_id, sub) WHERE revoked_at IS NULL;

CREATE TABLE refresh_tokens (
    id         TEXT   PRIMARY KEY,
    issuer_id  TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    grant_id   TEXT   NOT NULL REFERENCES grants (id),
    issued_at  BIGINT,
    expires_at BIGINT,
    scope      TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (issuer_id, name)
);
CREATE INDEX refresh_tokens_by_grant ON refresh_tokens (grant_id);

CREATE TABLE events (
    id                     TEXT    PRIMARY KEY,
    issuer_id              TEXT    NOT NULL REFERENCES issuers (id),
    target                 TEXT    NOT NULL,
    target_sub             TEXT,
    target_sid             TEXT,
    reason                 TEXT    NOT NULL,
    reason_detail          TEXT,
    actor                  TEXT,
    correlation_id         TEXT,
    note                   TEXT,
    caller                 TEXT    NOT NULL,
    tell_provider          BOOLEAN,
    sessions_ended         BIGINT  NOT NULL,
    participations_ended   BIGINT  NOT NULL,
    refresh_tokens_revoked BIGINT  NOT NULL,
    occurred_at            BIGINT  NOT NULL,
    created_at             BIGINT  NOT NULL
);
CREATE INDEX events_listed ON events (issuer_id, created_at, id);
CREATE INDEX events_by_caller ON events (issuer_id, caller, created_at, id);
CREATE INDEX events_by_sub ON events (issuer_id, target_sub);
CREATE INDEX events_by_sid ON events (issuer_id, target_sid);
CREATE INDEX events_by_correlation ON events (issuer_id, correlation_id);

CREATE TABLE idempotency_keys (
    issuer_id   TEXT   NOT NULL,
    caller      TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    fingerprint TEXT   NOT NULL,
    event_id    TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (issuer_id, caller, name)
);

CREATE TABLE cut_offs (
    id         TEXT    PRIMARY KEY,
    issuer_id  TEXT    NOT NULL REFERENCES issuers (id),
    scope      TEXT    NOT NULL,
    except_sid TEXT,
    not_before BIGINT  NOT NULL,
    event_id   TEXT    NOT NULL,
    compromise BOOLEAN NOT NULL,
    offline    BOOLEAN NOT NULL,
    created_at BIGINT  NOT NULL
);
CREATE INDEX cut_offs_by_scope ON cut_offs (issuer_id, scope, not_before);

CREATE TABLE deliveries (
    id             TEXT    PRIMARY KEY,
    issuer_id      TEXT    NOT NULL REFERENCES issuers (id),
    event_id       TEXT    NOT NULL REFERENCES events (id),
    kind           TEXT    NOT NULL CHECK (kind IN ('logout_token')),
    client_id      TEXT    NOT NULL,
    lane           TEXT    NOT NULL,
    participant_id TEXT    NOT NULL,
    session_id     TEXT    NOT NULL,
    sid            TEXT,
    sub            TEXT,
    state          TEXT    NOT NULL
        CHECK (state IN ('pending', 'delivered', 'rejected', 'expired', 'superseded', 'cancelled', 'unreachable')),
    reason         TEXT,
    class          BIGINT  NOT NULL CHECK (class BETWEEN 0 AND 2),
    compromise     BOOLEAN NOT NULL,
    late_joiner    BOOLEAN NOT NULL,
    attempts       BIGINT  NOT NULL,
    recoverable    BIGINT  NOT NULL,
    refused        BIGINT  NOT NULL,
    config_fault   BIGINT  NOT NULL,
    redirected     BIGINT  NOT NULL,
    blocked        BIGINT  NOT NULL,
    ours           BIGINT  NOT NULL,
    due_at         BIGINT  NOT NULL,
    horizon_at     BIGINT  NOT NULL,
    horizon_ms     BIGINT  NOT NULL CHECK (horizon_ms >= 0),
    lease_token    BIGINT,
    lease_until    BIGINT,
    -- The lease under which a graver logout opened it again: what that attempt gives up is not given up.
    reopened_token BIGINT,
    occurred_at    BIGINT  NOT NULL,
    created_at     BIGINT  NOT NULL,
    settled_at     BIGINT,
    CHECK ((state = 'pending') = (settled_at IS NULL)),
    CHECK ((state = 'pending') = (reason IS NULL)),
    CHECK (state = 'pending' OR lease_token IS NULL),
    CHECK ((lease_token IS NULL) = (lease_until IS NULL))
);
-- The same duty is never written twice, however often its logout is committed.
CREATE UNIQUE INDEX deliveries_once ON deliveries (event_id, kind, participant_id);
-- The claim: one lane, one class, by due time. Never a global due order. A claim moves due_at to the end of the lease, so that what is in
-- flight is not due and nothing ever has to give a lost lease back.
CREATE INDEX deliveries_due ON deliveries (lane, class, due_at) WHERE state = 'pending';
CREATE INDEX deliveries_open ON deliveries (issuer_id, event_id) WHERE state = 'pending';
CREATE INDEX deliveries_by_session ON deliveries (session_id);
CREATE INDEX deliveries_by_participant ON deliveries (participant_id);
CREATE INDEX deliveries_by_client ON deliveries (issuer_id, client_id, created_at, id);
CREATE INDEX deliveries_listed ON deliveries (issuer_id, created_at, id);

-- A later logout waits for deliveries an earlier one wrote.
CREATE TABLE adoptions (
    event_id    TEXT NOT NULL REFERENCES events (id),
    delivery_id TEXT NOT NULL REFERENCES deliveries (id),
    PRIMARY KEY (event_id, delivery_id)
);
CREATE INDEX adoptions_by_delivery ON adoptions (delivery_id);

CREATE TABLE attempts (
    id          TEXT    PRIMARY KEY,
    delivery_id TEXT    NOT NULL REFERENCES deliveries (id),
    number      BIGINT  NOT NULL,
    started_at  BIGINT  NOT NULL,
    duration_ms BIGINT  NOT NULL,
    class       TEXT    NOT NULL,
    status      BIGINT,
    failure     TEXT,
    remote_addr TEXT,
    jti         TEXT,
    kid         TEXT,
    excerpt     TEXT,
    lease_lost  BOOLEAN NOT NULL
);
CREATE INDEX attempts_by_delivery ON attempts (delivery_id, started_at, id);

CREATE TABLE audit (
    id        TEXT   PRIMARY KEY,
    at        BIGINT NOT NULL,
    act       TEXT   NOT NULL,
    caller    TEXT   NOT NULL,
    role      TEXT   NOT NULL,
    actor     TEXT,
    remote    TEXT,
    issuer_id TEXT,
    event_id  TEXT,
    detail    TEXT   NOT NULL
);
CREATE INDEX audit_listed ON audit (at, id);
CREATE INDEX audit_by_issuer ON audit (issuer_id, at, id);
