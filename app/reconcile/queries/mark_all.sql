-- name: reconcile_mark_all
UPDATE payments p
SET status = 'reconciled', reconciled_at = now(), reconciled_by = $2
FROM settlements s
WHERE p.id <= $1 AND p.status = 'pending'
  AND s.reference = p.reference AND s.amount_minor = p.amount_minor AND s.currency = p.currency
