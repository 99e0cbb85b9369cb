-- name: reconcile_page
-- The next payments that are pending, each with what comparing it with its settlement finds. Limited before the join,
-- and joined one by one, so that a page costs a page: the planner, who cannot know how few are asked for, would read
-- both tables whole.
SELECT p.id,
       CASE WHEN s.reference IS NULL             THEN 'missing'
            WHEN s.currency <> p.currency         THEN 'currency'
            WHEN s.amount_minor <> p.amount_minor THEN 'amount'
            ELSE 'reconciled' END
FROM (
    SELECT id, reference, currency, amount_minor
    FROM payments
    WHERE status = 'pending' AND id > $1 AND id <= $2
    ORDER BY id
    LIMIT $3
) p
LEFT JOIN LATERAL (SELECT * FROM settlements WHERE reference = p.reference LIMIT 1) s ON true
ORDER BY p.id
