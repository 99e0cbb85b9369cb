-- name: reconcile_mark
-- Whoever brings the ids, only what agrees is marked; and nothing for a run that ended before its time, whose last
-- generation somebody may still find. Those who mark many at a time do so one after another: each has its rows in an
-- order that the planner chose, so that side by side they might wait for each other for ever. The ids are a table to the
-- planner, because it takes 50 ms to think about an = ANY of 50,000.
WITH one_at_a_time AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtext('reconcile_mark')))
UPDATE payments p
SET status = 'reconciled', reconciled_at = now(), reconciled_by = $2
FROM unnest($1::bigint[]) AS given (id), settlements s, one_at_a_time
WHERE p.id = given.id AND p.status = 'pending'
  AND s.reference = p.reference AND s.amount_minor = p.amount_minor AND s.currency = p.currency
  AND NOT EXISTS (SELECT FROM reconcile_jobs WHERE id = $2 AND state IN ('cancelled', 'failed'))
