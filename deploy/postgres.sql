-- Runs once, when Postgres makes its data folder: what watching needs, before the app's own migrations.

-- Counts every statement by its text: the other side of the app's round-trips.
CREATE EXTENSION pg_stat_statements;

-- The exporter may look at all statistics and at no data. It has a user of its own, so that its statements can be told
-- from the app's.
CREATE ROLE exporter LOGIN PASSWORD 'exporter' IN ROLE pg_monitor;
