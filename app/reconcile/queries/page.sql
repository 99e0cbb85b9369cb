-- name: reconcile_page
-- The next payments that are pending, each with what comparing it with its settlement finds.
SELECT p.id,
       CASE WHEN s.reference IS NULL             THEN 'missing'
            WHEN s.currency <> p.currency         THEN 'currency'
            WHEN s.amount_minor <> p.amount_minor THEN 'amount'
            ELSE 'reconciled' END
FROM payments p
LEFT JOIN settlements s ON s.reference = p.reference
WHERE p.status = 'pending' AND p.id > $1 AND p.id <= $2
ORDER BY p.id
LIMIT $3
