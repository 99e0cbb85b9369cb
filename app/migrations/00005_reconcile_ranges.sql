-- +goose Up

-- The transaction that wrote a settlement last. A run keeps its promise for the settlements that were committed when it
-- began: it compares this column with its snapshot. settled_at cannot say that, because it may be the bank's time. The
-- function is stable, so Postgres evaluates it once for the rows that exist and does not rewrite the table.
ALTER TABLE settlements ADD COLUMN changed xid8 NOT NULL DEFAULT pg_current_xact_id();

-- +goose StatementBegin
CREATE FUNCTION settlement_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed := pg_current_xact_id();
    RETURN NEW;
END $$;
-- +goose StatementEnd

CREATE TRIGGER settlement_changed BEFORE UPDATE ON settlements FOR EACH ROW EXECUTE FUNCTION settlement_changed();

-- References whose settlement or reconciled payment was changed or deleted: only these can belong to a reconciled
-- payment that disagrees. Runs examine them, and reopen the payments that disagree. Every change is queued, also of a
-- payment that is pending: a transaction of the bank with an older snapshot may not see yet that it is reconciled.
-- TRUNCATE is not queued.
CREATE TABLE settlement_changes (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reference text COLLATE "C" NOT NULL
);

-- +goose StatementBegin
CREATE FUNCTION queue_updated_settlements() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO settlement_changes (reference)
    SELECT o.reference FROM old_rows o LEFT JOIN new_rows n ON n.reference = o.reference
    WHERE (n.amount_minor, n.currency) IS DISTINCT FROM (o.amount_minor, o.currency);
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION queue_deleted_settlements() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO settlement_changes (reference) SELECT reference FROM old_rows;
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION queue_changed_payment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO settlement_changes (reference) VALUES (NEW.reference);
    RETURN NULL;
END $$;
-- +goose StatementEnd

CREATE TRIGGER queue_updated_settlements AFTER UPDATE ON settlements
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION queue_updated_settlements();
CREATE TRIGGER queue_deleted_settlements AFTER DELETE ON settlements
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION queue_deleted_settlements();
CREATE TRIGGER queue_changed_payment AFTER UPDATE OF reference, amount_minor, currency ON payments
    FOR EACH ROW WHEN (NEW.status = 'reconciled') EXECUTE FUNCTION queue_changed_payment();

-- A run. What a run that goes on has done is in its ranges, and what that cost in its workers; the columns examined to
-- own_trips hold the sums once it is over.
ALTER TABLE reconcile_jobs
    ADD COLUMN began        pg_snapshot NOT NULL DEFAULT pg_current_snapshot(),
    ADD COLUMN most         bigint, -- payments that were asked for; null is all, and only such a run is complete
    ADD COLUMN ranges       int     NOT NULL DEFAULT 0, -- cut so far
    ADD COLUMN cut_after    bigint  NOT NULL DEFAULT 0, -- the next range begins after this payment
    ADD COLUMN cut          boolean NOT NULL DEFAULT false, -- there are no more ranges to come
    ADD COLUMN taken_at     timestamptz,
    ADD COLUMN released     boolean NOT NULL DEFAULT true, -- the last lead has left in order
    ADD COLUMN failures     int     NOT NULL DEFAULT 0, -- in succession, without progress
    ADD COLUMN progress     bigint  NOT NULL DEFAULT 0, -- at the last failure
    ADD COLUMN late         int     NOT NULL DEFAULT 0, -- agree by a settlement that came after the run had begun
    ADD COLUMN reopened     int     NOT NULL DEFAULT 0; -- were reconciled, and their settlement was changed

-- The last complete run, by which the next one is due; and what is old enough to be deleted.
CREATE INDEX reconcile_jobs_complete ON reconcile_jobs (finished_at) WHERE state = 'done' AND most IS NULL;
CREATE INDEX reconcile_jobs_finished ON reconcile_jobs (finished_at);
CREATE INDEX buffer_generations_flushed_at ON buffer_generations (flushed_at);

-- One row for each process that works on a run: its heartbeat, and what its work has cost. A lead has one, too.
CREATE TABLE reconcile_workers (
    id           uuid PRIMARY KEY,
    run          uuid NOT NULL REFERENCES reconcile_jobs ON DELETE CASCADE,
    silent_after timestamptz NOT NULL, -- from then on it counts as dead
    range        int NOT NULL DEFAULT 0, -- that it works on
    examined     int NOT NULL DEFAULT 0, -- of that range
    seconds      double precision NOT NULL DEFAULT 0,
    degraded     int    NOT NULL DEFAULT 0,
    db_trips     bigint NOT NULL DEFAULT 0,
    redis_trips  bigint NOT NULL DEFAULT 0,
    own_trips    bigint NOT NULL DEFAULT 0
);
CREATE INDEX reconcile_workers_run ON reconcile_workers (run);

-- A part of a run: the payments after the one and up to the other. A transaction that marks payments for a run locks
-- the row of its range first, and adds what it has marked. When a range changes hands its epoch grows, so a transaction
-- of the worker before fails: see reconcile_fence.
CREATE TABLE reconcile_ranges (
    run             uuid   NOT NULL REFERENCES reconcile_jobs ON DELETE CASCADE,
    n               int    NOT NULL,
    after           bigint NOT NULL,
    last            bigint NOT NULL,
    payments        int    NOT NULL, -- that were pending when it was cut
    owner           uuid, -- a worker
    epoch           int    NOT NULL DEFAULT 0,
    done            boolean NOT NULL DEFAULT false,

    examined        int    NOT NULL DEFAULT 0,
    reconciled      int    NOT NULL DEFAULT 0,
    amount          int    NOT NULL DEFAULT 0,
    currency        int    NOT NULL DEFAULT 0,
    missing         int    NOT NULL DEFAULT 0,
    late            int    NOT NULL DEFAULT 0,

    -- Of the strategies that mark row by row: what is counted ends at page_after. The page that is being marked ends at
    -- page_last; what a worker that is gone has marked of it is page_reconciled.
    page_after      bigint NOT NULL DEFAULT 0,
    page_last       bigint NOT NULL DEFAULT 0,
    page_reconciled int    NOT NULL DEFAULT 0,
    PRIMARY KEY (run, n)
);

-- Begins a transaction that marks payments of a range: locks the range, and fails when it has another owner or epoch.
-- A transaction whose client stands still is ended after five seconds, also behind a pooler, where a session has no
-- settings of its own.
-- +goose StatementBegin
CREATE FUNCTION reconcile_fence(of_run uuid, of_n int, of_owner uuid, of_epoch int) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('idle_in_transaction_session_timeout', '5000', true);
    PERFORM FROM reconcile_ranges
        WHERE run = of_run AND n = of_n AND owner = of_owner AND epoch = of_epoch FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'range % of run % has another owner than % in epoch %', of_n, of_run, of_owner, of_epoch
            USING ERRCODE = 'RCF01';
    END IF;
END $$;
-- +goose StatementEnd

-- Ends a transaction that marks payments: fails unless the run still goes on. The lock keeps the run from ending before
-- the transaction has; it does not conflict with heartbeats, which change no key.
-- +goose StatementBegin
CREATE FUNCTION reconcile_seal(of_run uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM reconcile_jobs WHERE id = of_run AND state = 'running' FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'run % does not go on', of_run USING ERRCODE = 'RCF01';
    END IF;
END $$;
-- +goose StatementEnd

-- Cuts the next range of at most that many pending payments, and says whether there is another one to cut.
-- +goose StatementBegin
CREATE FUNCTION reconcile_cut(of_run uuid, size int) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    job    reconcile_jobs;
    room   bigint;
    listed bigint;
    final  bigint;
BEGIN
    SELECT * INTO job FROM reconcile_jobs WHERE id = of_run AND state = 'running' AND NOT cut FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF job.ranges = 0 THEN
        job.total := 0; -- a release without ranges has counted all
    END IF;
    room := least(size, coalesce(job.most - job.total, size));
    SELECT count(*), max(id) INTO listed, final FROM (
        SELECT id FROM payments WHERE status = 'pending' AND id > job.cut_after AND id <= job.through
        ORDER BY id LIMIT room) pending;
    IF listed > 0 THEN
        INSERT INTO reconcile_ranges (run, n, after, last, payments, page_after)
        VALUES (of_run, job.ranges + 1, job.cut_after, final, listed, job.cut_after);
    END IF;
    UPDATE reconcile_jobs
    SET ranges = job.ranges + (listed > 0)::int, total = job.total + listed, cut_after = coalesce(final, through),
        cut = listed < size OR final >= through
    WHERE id = of_run RETURNING NOT cut INTO job.cut;
    RETURN job.cut;
END $$;
-- +goose StatementEnd

-- Gives a worker the first range that has no living owner; none while all have, or while a marking transaction of an
-- owner before holds the lock. What such an owner has marked of its last page is counted, now that it can mark no more.
-- +goose StatementBegin
CREATE FUNCTION reconcile_claim(of_run uuid, by_worker uuid) RETURNS SETOF reconcile_ranges LANGUAGE plpgsql AS $$
DECLARE
    claimed reconcile_ranges;
BEGIN
    SELECT r.* INTO claimed FROM reconcile_ranges r
    WHERE r.run = of_run AND NOT r.done AND NOT EXISTS (
        SELECT FROM reconcile_workers w WHERE w.id = r.owner AND w.silent_after > now())
    ORDER BY r.n LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF claimed.page_last > claimed.page_after THEN
        SELECT count(*) INTO claimed.page_reconciled FROM payments
        WHERE id > claimed.page_after AND id <= claimed.page_last AND reconciled_by = of_run;
    END IF;
    RETURN QUERY UPDATE reconcile_ranges
        SET owner = by_worker, epoch = epoch + 1, page_reconciled = claimed.page_reconciled
        WHERE run = of_run AND n = claimed.n RETURNING *;
END $$;
-- +goose StatementEnd

-- What the service does from time to time, on whichever replica finds it due first, and when it was done last. The
-- first run is due as long after this migration as any other after the one before.
CREATE TABLE maintenance (
    task text        PRIMARY KEY,
    done timestamptz NOT NULL DEFAULT now()
);
INSERT INTO maintenance (task) VALUES ('prune'), ('first run');
