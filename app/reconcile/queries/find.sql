-- name: reconcile_find
-- One payment, likewise.
SELECT CASE WHEN s.reference IS NULL             THEN 'missing'
            WHEN s.currency <> p.currency         THEN 'currency'
            WHEN s.amount_minor <> p.amount_minor THEN 'amount'
            ELSE 'reconciled' END
FROM payments p
LEFT JOIN settlements s ON s.reference = p.reference
WHERE p.id = $1
