-- name: reconcile_ids
SELECT id FROM payments WHERE status = 'pending' AND id > $1 AND id <= $2 ORDER BY id LIMIT $3
