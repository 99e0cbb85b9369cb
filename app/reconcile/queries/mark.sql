-- name: reconcile_mark
-- Whoever brings the ids, only what agrees is marked. In the order of the ids, so that two who mark the same payments
-- wait for each other instead of deadlocking.
UPDATE payments
SET status = 'reconciled', reconciled_at = now(), reconciled_by = $2
WHERE id IN (
    SELECT p.id
    FROM payments p
    JOIN settlements s ON s.reference = p.reference AND s.amount_minor = p.amount_minor AND s.currency = p.currency
    WHERE p.id = ANY ($1) AND p.status = 'pending'
    ORDER BY p.id
    FOR UPDATE OF p
)
