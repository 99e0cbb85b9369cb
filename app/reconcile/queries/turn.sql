-- name: reconcile_turn
-- Turns the page of a range ($1, $2: run and range) that is marked row by row: notes where the next one ends ($5), and
-- counts the page before, which ended at $4, unless there was none: what this worker ($3) and an owner before it have
-- marked.
UPDATE reconcile_ranges
SET reconciled = reconciled + CASE WHEN $4 > page_after THEN page_reconciled + $3 ELSE 0 END,
    examined = least(payments, examined + $6),
    page_reconciled = CASE WHEN $4 > page_after THEN 0 ELSE page_reconciled END,
    page_after = $4, page_last = $5
WHERE run = $1 AND n = $2
