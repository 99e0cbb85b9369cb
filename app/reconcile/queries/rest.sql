-- name: reconcile_rest
-- What is pending, counted by why: 'reconciled' are those that agree and should not be among it.
SELECT CASE WHEN s.reference IS NULL             THEN 'missing'
            WHEN s.currency <> p.currency         THEN 'currency'
            WHEN s.amount_minor <> p.amount_minor THEN 'amount'
            ELSE 'reconciled' END AS finding, count(*)
FROM payments p
LEFT JOIN settlements s ON s.reference = p.reference
WHERE p.status = 'pending' AND p.id <= $1
GROUP BY finding
