-- name: reconcile_mark_all
WITH one_at_a_time AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtext('reconcile_mark')))
UPDATE payments p
SET status = 'reconciled', reconciled_at = now(), reconciled_by = $2
FROM settlements s, one_at_a_time
WHERE p.id <= $1 AND p.status = 'pending'
  AND s.reference = p.reference AND s.amount_minor = p.amount_minor AND s.currency = p.currency
