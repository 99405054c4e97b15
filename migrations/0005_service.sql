-- A service one can run: what the configuration declares, secrets that overlap, a trail nobody can change unseen, alarms, gaps, what a trace hangs on.

-- What the configuration declares is not changed by anybody else.
ALTER TABLE issuers ADD COLUMN declared BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE clients ADD COLUMN declared BOOLEAN NOT NULL DEFAULT FALSE;

-- A secret that is being replaced is good beside its successor for a while.
ALTER TABLE clients ADD COLUMN secret_previous_digest TEXT;
ALTER TABLE clients ADD COLUMN secret_previous_until BIGINT;
ALTER TABLE api_tokens ADD COLUMN rate_per_s BIGINT;
ALTER TABLE api_tokens ADD COLUMN rotated_at BIGINT;
ALTER TABLE api_tokens ADD COLUMN previous_digest TEXT;
ALTER TABLE api_tokens ADD COLUMN previous_until BIGINT;
ALTER TABLE api_tokens ADD COLUMN used_at BIGINT;
ALTER TABLE api_tokens ADD COLUMN previous_used_at BIGINT;
CREATE UNIQUE INDEX api_tokens_previous ON api_tokens (previous_digest);

-- The trail's chain: digests of records, linked after their commit, and the signed heads.
-- A record without a number is committed and not sealed yet. Of a value that may have to go, the chain holds a salted digest: the salt goes with the value
-- (`salts`, by the value's place), and what is left is the digest (`erased`, by the same). The keyed digest over the record's digest is written with the record:
-- nobody makes it without the sealing key, and what has none, or another, is never sealed (`mac`).
ALTER TABLE audit ADD COLUMN seq BIGINT;
ALTER TABLE audit ADD COLUMN digest TEXT;
ALTER TABLE audit ADD COLUMN chain TEXT;
ALTER TABLE audit ADD COLUMN salts TEXT;
ALTER TABLE audit ADD COLUMN erased TEXT;
ALTER TABLE audit ADD COLUMN mac TEXT;
CREATE UNIQUE INDEX audit_by_seq ON audit (seq) WHERE seq IS NOT NULL;
CREATE INDEX audit_unsealed ON audit (at, id) WHERE seq IS NULL;
CREATE TABLE audit_keys (
    kid        TEXT   PRIMARY KEY,
    alg        TEXT   NOT NULL,
    state      TEXT   NOT NULL CHECK (state IN ('next', 'active', 'retired')),
    public_jwk TEXT   NOT NULL,
    -- Empty once it is retired: nobody signs with it any more.
    sealed     TEXT   NOT NULL,
    -- Keyed by the sealing key: says that this server made it, also when it is retired.
    mac        TEXT,
    created_at BIGINT NOT NULL,
    retired_at BIGINT
);
CREATE UNIQUE INDEX audit_keys_active ON audit_keys (state) WHERE state IN ('active', 'next');
CREATE TABLE audit_heads (
    seq   BIGINT PRIMARY KEY,
    chain TEXT   NOT NULL,
    at    BIGINT NOT NULL,
    kid   TEXT   NOT NULL,
    jws   TEXT   NOT NULL
);
CREATE INDEX audit_heads_by_age ON audit_heads (at, seq);
-- The last one of a key is kept for good: it names the key that signs after it.
CREATE INDEX audit_heads_by_key ON audit_heads (kid, seq);
-- What was sealed up to here is not kept any more.
CREATE TABLE audit_checkpoints (
    seq   BIGINT PRIMARY KEY,
    chain TEXT   NOT NULL,
    at    BIGINT NOT NULL,
    jws   TEXT   NOT NULL
);

-- Whom erasing made nobody needs no table: where a name stood, its digest stands.

-- What a restored database cannot know: what happened between its backup and its first start. While one is open, tokens from before its end are not
-- good unless their session was reported since, or, with a sid, was in a list of the provider's that was made since.
CREATE TABLE gaps (
    id         TEXT   PRIMARY KEY,
    issuer_id  TEXT   NOT NULL REFERENCES issuers (id),
    begins_at  BIGINT NOT NULL,
    ends_at    BIGINT NOT NULL,
    cause      TEXT   NOT NULL CHECK (cause IN ('restore', 'operator')),
    created_at BIGINT NOT NULL,
    listed_at  BIGINT,
    closed_at  BIGINT,
    closed_by  TEXT   CHECK (closed_by IN ('operator', 'provider')),
    CHECK (begins_at <= ends_at),
    CHECK ((closed_at IS NULL) = (closed_by IS NULL))
);
-- Asked with every token: not partial, since SQLite would take the list's index instead, and walk through closed ones.
CREATE INDEX gaps_open ON gaps (issuer_id, closed_at, listed_at, ends_at);
CREATE INDEX gaps_closed ON gaps (closed_at) WHERE closed_at IS NOT NULL;
CREATE INDEX gaps_listed ON gaps (issuer_id, created_at, id);

-- What somebody must look at, and whether he was told.
CREATE TABLE alarms (
    id         TEXT   PRIMARY KEY,
    kind       TEXT   NOT NULL,
    -- Empty where no issuer is concerned: an open alarm is one of its kind about one thing.
    issuer_id  TEXT   NOT NULL,
    about      TEXT   NOT NULL,
    message    TEXT   NOT NULL,
    first_at   BIGINT NOT NULL,
    last_at    BIGINT NOT NULL,
    seen       BIGINT NOT NULL CHECK (seen > 0),
    cleared_at BIGINT,
    -- When somebody was told last, how often, and when he is to be told again; none where there is nothing to tell.
    told_at    BIGINT,
    tellings   BIGINT NOT NULL,
    attempts   BIGINT NOT NULL,
    due_at     BIGINT
);
CREATE UNIQUE INDEX alarms_open ON alarms (kind, issuer_id, about) WHERE cleared_at IS NULL;
CREATE INDEX alarms_due ON alarms (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX alarms_listed ON alarms (first_at, id);
CREATE INDEX alarms_cleared ON alarms (cleared_at) WHERE cleared_at IS NOT NULL;

-- Where a trace began that a logout goes on (W3C Trace Context 3).
ALTER TABLE events ADD COLUMN traceparent TEXT;
ALTER TABLE events ADD COLUMN tracestate TEXT;

-- How many deliveries were ever written and how many of them were forgotten, one row a transaction, summed up from time to time. What they differ by is
-- in the table, or was lost.
CREATE TABLE delivery_entries (
    id        TEXT   PRIMARY KEY,
    enqueued  BIGINT NOT NULL,
    forgotten BIGINT NOT NULL
);
-- A new database begins with none, so that one which is moved into it can bring its own.
INSERT INTO delivery_entries (id, enqueued, forgotten) SELECT '0', count(*), 0 FROM deliveries HAVING count(*) > 0;
