-- name: reconcile_finish
-- Ends a range ($1, $2: run and range) unless it has a payment that is pending and agrees with a settlement of before
-- the run; returns how many it has. With $3 it ends all the same, and counts them as late. A settlement whose
-- transaction is still to come is from a database that was restored into this one: it is of before.
WITH pending AS (
    SELECT CASE WHEN s.reference IS NULL             THEN 'missing'
                WHEN s.currency <> p.currency         THEN 'currency'
                WHEN s.amount_minor <> p.amount_minor THEN 'amount'
                WHEN $3 OR NOT (pg_visible_in_snapshot(s.changed, j.began)
                    OR s.changed >= pg_snapshot_xmax(pg_current_snapshot())) THEN 'late'
                ELSE 'left' END AS finding
    FROM reconcile_jobs j
    JOIN reconcile_ranges r ON r.run = j.id AND r.n = $2
    JOIN payments p ON p.status = 'pending' AND p.id > r.after AND p.id <= r.last
    LEFT JOIN LATERAL (SELECT * FROM settlements WHERE reference = p.reference LIMIT 1) s ON true
    WHERE j.id = $1
), counts AS (
    SELECT count(*) FILTER (WHERE finding = 'missing') AS missing,
        count(*) FILTER (WHERE finding = 'currency') AS currency,
        count(*) FILTER (WHERE finding = 'amount') AS amount, count(*) FILTER (WHERE finding = 'late') AS late,
        count(*) FILTER (WHERE finding = 'left') AS remaining
    FROM pending
)
UPDATE reconcile_ranges r
SET done = c.remaining = 0, examined = payments, amount = c.amount, currency = c.currency, missing = c.missing,
    late = c.late
FROM counts c
WHERE r.run = $1 AND r.n = $2
RETURNING c.remaining, r.amount, r.currency, r.missing, r.late
