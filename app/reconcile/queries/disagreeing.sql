-- name: reconcile_disagreeing
-- Reconciled payments that disagree: all of them are in the queue, so nothing else is read.
SELECT count(DISTINCT p.id)
FROM settlement_changes c
JOIN payments p ON p.reference = c.reference AND p.status = 'reconciled'
LEFT JOIN settlements s ON s.reference = c.reference
WHERE (s.amount_minor, s.currency) IS DISTINCT FROM (p.amount_minor, p.currency)
