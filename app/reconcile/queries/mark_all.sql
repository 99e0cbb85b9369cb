-- name: reconcile_mark_all
-- Like reconcile_mark, for all payments of a range ($3: after, $4: last).
WITH agreed AS MATERIALIZED (
    SELECT p.id
    FROM payments p
    JOIN settlements s
      ON s.reference = p.reference AND s.amount_minor = p.amount_minor AND s.currency = p.currency
    WHERE p.status = 'pending' AND p.id > $3 AND p.id <= $4
    ORDER BY p.id
    FOR NO KEY UPDATE OF p FOR SHARE OF s
), marked AS (
    UPDATE payments p
    SET status = 'reconciled', reconciled_at = now(), reconciled_by = $1
    FROM agreed
    WHERE p.id = agreed.id
    RETURNING 1
), counted AS (
    UPDATE reconcile_ranges SET reconciled = reconciled + (SELECT count(*) FROM marked) WHERE run = $1 AND n = $2
)
SELECT count(*) FROM marked
