-- name: reconcile_truth
SELECT count(*) FILTER (WHERE p.status = 'pending'),
       count(*) FILTER (WHERE p.status = 'reconciled'),
       count(*) FILTER (WHERE p.status = 'pending' AND agrees),
       count(*) FILTER (WHERE p.status = 'reconciled' AND NOT agrees)
FROM payments p
LEFT JOIN settlements s ON s.reference = p.reference
CROSS JOIN LATERAL (
    SELECT s.reference IS NOT NULL AND s.amount_minor = p.amount_minor AND s.currency = p.currency AS agrees
) comparison
