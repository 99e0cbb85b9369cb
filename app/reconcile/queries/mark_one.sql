-- name: reconcile_mark_one
-- Like reconcile_mark, for one payment ($1), whose page counts it for the run ($2).
WITH agreed AS MATERIALIZED (
    SELECT p.id
    FROM payments p
    JOIN settlements s
      ON s.reference = p.reference AND s.amount_minor = p.amount_minor AND s.currency = p.currency
    WHERE p.id = $1 AND p.status = 'pending'
    FOR NO KEY UPDATE OF p FOR SHARE OF s
)
UPDATE payments p
SET status = 'reconciled', reconciled_at = now(), reconciled_by = $2
FROM agreed
WHERE p.id = agreed.id
