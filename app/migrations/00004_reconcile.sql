-- +goose Up

-- Which run marked a payment; none for a live event. It makes a run's count a fact of Postgres, whoever of several
-- workers did the marking. No index: a run counts once, at its end, and an index would undo the HOT updates.
ALTER TABLE payments ADD COLUMN reconciled_by uuid;

-- A reference is looked up fifty thousand times a run, and compared byte by byte: in the collation of a language each
-- look-up takes nearly twice as long.
ALTER TABLE payments ALTER COLUMN reference TYPE text COLLATE "C";
ALTER TABLE settlements ALTER COLUMN reference TYPE text COLLATE "C";

-- One row for each generation of a write buffer that has been applied, in the transaction that applied it. A second
-- flush of the same generation finds it and does nothing.
CREATE TABLE buffer_generations (
    id         uuid        PRIMARY KEY,
    buffer     text        NOT NULL,
    items      int         NOT NULL,
    flushed_at timestamptz NOT NULL DEFAULT now()
);

-- Runs of the reconcile job. A worker that lives says so every second; when it has been silent for a while another one
-- goes on. What has been done stands in the payments themselves, so that whoever goes on needs nothing but the range.
CREATE TABLE reconcile_jobs (
    id            uuid        PRIMARY KEY,
    strategy      text        NOT NULL,
    state         text        NOT NULL DEFAULT 'running'
                  CHECK (state IN ('running', 'cancelling', 'done', 'failed', 'cancelled')),
    cause         text        NOT NULL, -- traceparent of the request that asked for it
    traceparent   text        NOT NULL DEFAULT '', -- of the first worker
    through       bigint      NOT NULL, -- the last payment of the range
    total         int         NOT NULL, -- payments that were pending in the range at the start

    worker        uuid, -- the name of one attempt
    replica       text        NOT NULL DEFAULT '',
    silent_after  timestamptz NOT NULL DEFAULT now(), -- from then on the worker counts as dead: none so far
    attempts      int         NOT NULL DEFAULT 0,

    -- What the workers report, the last one's examination and the sum of all costs.
    examined      int         NOT NULL DEFAULT 0,
    reconciled    int         NOT NULL DEFAULT 0,
    amount        int         NOT NULL DEFAULT 0, -- disagree in the amount
    currency      int         NOT NULL DEFAULT 0, -- disagree in the currency
    missing       int         NOT NULL DEFAULT 0, -- have no settlement
    degraded      int         NOT NULL DEFAULT 0, -- written directly, because Redis refused them
    seconds       double precision NOT NULL DEFAULT 0,
    db_trips      bigint      NOT NULL DEFAULT 0,
    redis_trips   bigint      NOT NULL DEFAULT 0,
    own_trips     bigint      NOT NULL DEFAULT 0, -- for this record

    error         text        NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL DEFAULT now(),
    finished_at   timestamptz
);

-- One run at a time, over all replicas: two would do each other's work.
CREATE UNIQUE INDEX reconcile_jobs_one_at_a_time ON reconcile_jobs ((true)) WHERE state IN ('running', 'cancelling');
