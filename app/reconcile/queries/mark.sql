-- name: reconcile_mark
-- Marks those of the given payments that are pending and agree, for a run ($2, $3: run and range, whose count it
-- raises) or for a live event (both null). The comparison is under locks: a row that another transaction changes is
-- compared again when that has ended. All markers lock in the order of ids, so two of them cannot deadlock. The ids are
-- a table to the planner, because it takes 50 ms to plan an = ANY of 50,000.
WITH agreed AS MATERIALIZED (
    SELECT p.id
    FROM unnest($1::bigint[]) AS given (id)
    JOIN payments p ON p.id = given.id AND p.status = 'pending'
    JOIN settlements s
      ON s.reference = p.reference AND s.amount_minor = p.amount_minor AND s.currency = p.currency
    ORDER BY p.id
    FOR NO KEY UPDATE OF p FOR SHARE OF s
), marked AS (
    UPDATE payments p
    SET status = 'reconciled', reconciled_at = now(), reconciled_by = $2
    FROM agreed
    WHERE p.id = agreed.id
    RETURNING 1
), counted AS (
    UPDATE reconcile_ranges SET reconciled = reconciled + (SELECT count(*) FROM marked) WHERE run = $2 AND n = $3
)
SELECT count(*) FROM marked
