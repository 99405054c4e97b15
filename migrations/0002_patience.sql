-- Lanes that wait, logouts of everybody, ends by age, replays, replicas.

-- What a client asks for.
ALTER TABLE clients ADD COLUMN rate_per_s BIGINT CHECK (rate_per_s > 0);
ALTER TABLE clients ADD COLUMN on_expiry TEXT NOT NULL DEFAULT 'none' CHECK (on_expiry IN ('none', 'notify'));
ALTER TABLE clients ADD COLUMN suspended_at BIGINT;

-- Whether sessions end here by their age.
ALTER TABLE issuers ADD COLUMN expiry TEXT NOT NULL DEFAULT 'absolute' CHECK (expiry IN ('none', 'absolute', 'authoritative'));

-- How many logouts of many there have been. What was written under a smaller number was there before the last of them: clocks may tie, this cannot.
ALTER TABLE issuers ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0;
ALTER TABLE participants ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0;
ALTER TABLE grants ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0;

-- When a report last spoke of it, and what kind of end it had if nobody asked for it: events may be forgotten before their sessions.
ALTER TABLE sessions ADD COLUMN reported_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN ended_target TEXT;

ALTER TABLE events ADD COLUMN undone_at BIGINT;

-- A cut-off of many: what was registered under a smaller epoch is over, whatever the clocks say. It may except people and clients.
ALTER TABLE cut_offs ADD COLUMN epoch BIGINT;
ALTER TABLE cut_offs ADD COLUMN except_names TEXT;
ALTER TABLE cut_offs ADD COLUMN lifted_at BIGINT;
CREATE INDEX cut_offs_by_event ON cut_offs (event_id);

-- Work that one transaction cannot hold: it goes on page by page from where it stands, in whatever process. What it is to do is JSON of the vault's own.
CREATE TABLE works (
    id         TEXT   PRIMARY KEY,
    kind       TEXT   NOT NULL CHECK (kind IN ('expand', 'replay', 'cancel')),
    issuer_id  TEXT   NOT NULL REFERENCES issuers (id),
    event_id   TEXT,
    plan       TEXT   NOT NULL,
    position   TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    done_at    BIGINT
);
CREATE INDEX works_open ON works (issuer_id, created_at, id) WHERE done_at IS NULL;
CREATE INDEX works_by_event ON works (event_id);
-- The sessions of a work that names them one by one.
CREATE TABLE work_items (
    work_id TEXT   NOT NULL REFERENCES works (id),
    number  BIGINT NOT NULL,
    items   TEXT   NOT NULL,
    PRIMARY KEY (work_id, number)
);

-- Lanes, and the hosts behind them, about which there is something to remember; a healthy one has no row.
CREATE TABLE lanes (
    lane          TEXT   PRIMARY KEY,
    issuer_id     TEXT,
    client_id     TEXT,
    paused_at     BIGINT,
    failing_since BIGINT,
    parked_at     BIGINT,
    -- While it is set the lane is open: nothing but a probe at this time goes out.
    probe_at      BIGINT,
    probes        BIGINT NOT NULL DEFAULT 0,
    -- When it closed last: whoever sees that begins with one attempt at a time.
    closed_at     BIGINT,
    -- How much of its oldest delivery's horizon had passed when somebody was told last, in percent.
    told          BIGINT NOT NULL DEFAULT 0,
    CHECK ((issuer_id IS NULL) = (client_id IS NULL))
);

-- Processes that share the work, and who runs which chore.
CREATE TABLE replicas (
    id      TEXT   PRIMARY KEY,
    seen_at BIGINT NOT NULL
);
CREATE TABLE chores (
    name       TEXT   PRIMARY KEY,
    holder     TEXT   NOT NULL,
    held_until BIGINT NOT NULL,
    ran_at     BIGINT
);

-- The claim: one lane, one class, first attempts and others apart, by due time.
ALTER TABLE deliveries ADD COLUMN retry BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE deliveries SET retry = TRUE WHERE state = 'pending' AND attempts > 0;
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (lane, class, retry, due_at) WHERE state = 'pending';
CREATE INDEX deliveries_leased ON deliveries (lane) WHERE lease_token IS NOT NULL;
CREATE INDEX deliveries_oldest ON deliveries (lane, created_at) WHERE state = 'pending';
CREATE INDEX deliveries_horizon ON deliveries (horizon_at) WHERE state = 'pending';
-- The first page of a receipt, whatever the number of deliveries.
CREATE INDEX deliveries_of_event ON deliveries (event_id, created_at, id);
CREATE INDEX deliveries_counted ON deliveries (event_id, state, late_joiner);
CREATE INDEX deliveries_settled ON deliveries (event_id, settled_at, id) WHERE state <> 'pending';
-- What a logout of many waits for, or opens again.
CREATE INDEX deliveries_unanswered ON deliveries (issuer_id, id) WHERE state IN ('pending', 'rejected', 'expired', 'cancelled');
CREATE INDEX deliveries_given_up ON deliveries (issuer_id, created_at, id) WHERE state IN ('rejected', 'expired', 'unreachable');

-- Lists are ordered by time and then by id: an index that ends with both is preferred to one of all the issuer's sessions.
DROP INDEX sessions_by_sid;
CREATE INDEX sessions_by_sid ON sessions (issuer_id, sid, created_at, id);
DROP INDEX sessions_by_key;
CREATE INDEX sessions_by_key ON sessions (issuer_id, provider_key, created_at, id);
DROP INDEX sessions_by_sub;
CREATE INDEX sessions_by_sub ON sessions (issuer_id, sub, created_at, id);
DROP INDEX sessions_by_device;
CREATE INDEX sessions_by_device ON sessions (issuer_id, device_id, created_at, id);
DROP INDEX sessions_by_ip;
CREATE INDEX sessions_by_ip ON sessions (issuer_id, device_ip, created_at, id);

-- What ends by itself, what is ended page by page, what is forgotten.
CREATE INDEX sessions_live ON sessions (issuer_id, id) WHERE ended_at IS NULL;
CREATE INDEX sessions_expiring ON sessions (issuer_id, expires_at) WHERE ended_at IS NULL;
CREATE INDEX sessions_idle ON sessions (issuer_id, idle_expires_at) WHERE ended_at IS NULL AND idle_expires_at IS NOT NULL;
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;
DROP INDEX participants_by_client;
CREATE INDEX participants_by_client ON participants (issuer_id, client_id, id) WHERE ended_at IS NULL;
DROP INDEX grants_by_client;
CREATE INDEX grants_by_client ON grants (issuer_id, client_id, id) WHERE revoked_at IS NULL;
CREATE INDEX grants_revoked ON grants (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX refresh_tokens_expiring ON refresh_tokens (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
CREATE INDEX cut_offs_by_age ON cut_offs (created_at);
CREATE INDEX works_done ON works (done_at) WHERE done_at IS NOT NULL;
