-- name: reconcile_changes
-- Takes up to $2 changed settlements from the queue, and reopens the reconciled payments that disagree with them now.
-- A settlement that is changing meanwhile is queued once more when that is committed.
WITH taken AS (
    DELETE FROM settlement_changes
    WHERE id IN (SELECT id FROM settlement_changes ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)
    RETURNING reference
), disagreeing AS MATERIALIZED (
    SELECT p.id
    FROM payments p
    LEFT JOIN settlements s ON s.reference = p.reference
    WHERE p.reference IN (SELECT reference FROM taken) AND p.status = 'reconciled'
      AND (s.amount_minor, s.currency) IS DISTINCT FROM (p.amount_minor, p.currency)
    ORDER BY p.id
    FOR NO KEY UPDATE OF p
), reopened AS (
    UPDATE payments p
    SET status = 'pending', reconciled_at = NULL, reconciled_by = NULL
    FROM disagreeing d
    WHERE p.id = d.id
    RETURNING 1
), counted AS (
    UPDATE reconcile_jobs SET reopened = reopened + (SELECT count(*) FROM reopened) WHERE id = $1
)
SELECT (SELECT count(*) FROM taken), (SELECT count(*) FROM reopened)
