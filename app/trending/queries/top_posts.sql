-- name: TopPosts :many
-- The ten posts of the window that moved people most, with what they moved.
--
-- Each table of events is counted on its own and only the counts are joined. The obvious query joins views, comments
-- and shares to each post and counts DISTINCT rows of the product: a post with 1,000 views, 100 comments and 50 shares
-- then makes 5,000,000 rows, the plain counts are wrong by as much, and on this data it does not end within a minute.
--
-- NOT MATERIALIZED because the planner knows nothing about the rows of a materialized CTE: it would expect 300 million
-- of them in the end and sort every view on disk.
WITH recent AS NOT MATERIALIZED (
    SELECT id, author_id, title, created_at
    FROM posts
    WHERE created_at > now() - $1::interval
), viewed AS (
    SELECT post_id, count(*) AS n FROM views JOIN recent ON recent.id = post_id GROUP BY post_id
), commented AS (
    SELECT post_id, count(*) AS n FROM comments JOIN recent ON recent.id = post_id GROUP BY post_id
), shared AS (
    SELECT post_id, count(*) AS n FROM shares JOIN recent ON recent.id = post_id GROUP BY post_id
)
SELECT
    recent.id,
    recent.author_id,
    recent.title,
    recent.created_at,
    coalesce(viewed.n, 0)    AS views,
    coalesce(commented.n, 0) AS comments,
    coalesce(shared.n, 0)    AS shares,
    coalesce(viewed.n, 0) + 5 * coalesce(commented.n, 0) + 10 * coalesce(shared.n, 0) AS score
FROM recent
LEFT JOIN viewed    ON viewed.post_id    = recent.id
LEFT JOIN commented ON commented.post_id = recent.id
LEFT JOIN shared    ON shared.post_id    = recent.id
ORDER BY score DESC, recent.id
LIMIT 10
