package seed_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"nervous/app/seed"
	"nervous/app/servicetest"
)

// smallRows is the fingerprint of the small scale. When it changes, the rows are others than those that databases hold
// already: raise the edition, and put the new fingerprint here.
const smallRows = "e88efd5499e79c9a8a5a8cf713c6eaba"

// parts is a scale whose views take several batches.
var parts = seed.Scale{
	Name: "parts", Users: 50, Posts: 300, Views: 200_001, Comments: 700, Shares: 100, Payments: 100,
}

func TestSmallIsAlwaysTheSameRows(t *testing.T) {
	t.Parallel()
	url, conn := database(t)
	began := time.Now()
	run(t, url, seed.Small)
	t.Logf("loaded the small scale in %s", time.Since(began))
	require.Equal(t, smallRows, fingerprint(t, conn))
}

// TestInterruptedRunsEndWithTheSameRows interrupts a load in every batch, in turn by cancelling it and by cutting its
// connection, and lets it go on each time.
func TestInterruptedRunsEndWithTheSameRows(t *testing.T) {
	t.Parallel()
	whole, wholeConn := database(t)
	run(t, whole, parts)

	url, conn := database(t)
	interruptions, previous := 0, 0
	for {
		ctx, cancel := context.WithCancel(t.Context())
		cutting := interruptions%2 == 1
		first := -1
		err := seed.Run(ctx, url, seed.Options{Scale: parts, Report: func(p seed.Progress) {
			switch {
			case p.Of == 0 || p.Rows == p.Of:
			case first < 0:
				first = p.Rows
			case p.Rows >= first+100_000 && cutting: // in the batch after the first
				cut(t, conn)
			case p.Rows >= first+100_000 || p.Doing != "loading views" && p.Rows > first:
				cancel()
			}
		}})
		cancel()
		require.GreaterOrEqual(t, first, previous, "what was committed is not loaded again")
		previous = first
		if err == nil {
			break
		}
		require.ErrorContains(t, err, "the same command goes on from there")
		interruptions++
	}
	require.Greater(t, interruptions, 3)
	require.Equal(t, fingerprint(t, wholeConn), fingerprint(t, conn))
}

func TestARepeatedRunTouchesNothing(t *testing.T) {
	t.Parallel()
	url, conn := database(t)
	run(t, url, seed.Small)
	before, files := fingerprint(t, conn), tableFiles(t, conn)

	doings := run(t, url, seed.Small)
	require.Equal(t, []string{"small data is ready"}, doings)
	require.Equal(t, before, fingerprint(t, conn))
	require.Equal(t, files, tableFiles(t, conn), "no table was rewritten")
}

func TestTwoRunsAtOnceLoadOnce(t *testing.T) {
	t.Parallel()
	url, conn := database(t)
	var both errgroup.Group
	for range 2 {
		both.Go(func() error { return seed.Run(t.Context(), url, seed.Options{Scale: seed.Small}) })
	}
	require.NoError(t, both.Wait())
	require.Equal(t, smallRows, fingerprint(t, conn))
}

func TestADayLaterTheNewestIsNow(t *testing.T) {
	t.Parallel()
	url, conn := database(t)
	run(t, url, seed.Small)
	before := fingerprintOf(t, conn, "posts", "views", "comments", "shares")

	// The same database, had it been loaded a day ago, and served since.
	for _, aDayAgo := range []string{
		"UPDATE seed SET newest = newest - interval '1 day'",
		"ALTER TABLE posts ALTER created_at TYPE timestamptz USING created_at - interval '1 day'",
		"ALTER TABLE views ALTER occurred_at TYPE timestamptz USING occurred_at - interval '1 day'",
		"ALTER TABLE comments ALTER occurred_at TYPE timestamptz USING occurred_at - interval '1 day'",
		"ALTER TABLE shares ALTER occurred_at TYPE timestamptz USING occurred_at - interval '1 day'",
	} {
		_, err := conn.Exec(t.Context(), aDayAgo)
		require.NoError(t, err)
	}
	var served int64
	require.NoError(t, conn.QueryRow(t.Context(),
		"INSERT INTO posts (author_id, title) VALUES (1, 'written meanwhile') RETURNING id").Scan(&served))
	require.EqualValues(t, seed.Small.Posts+1, served, "ids go on after those of the seed")
	var payments time.Time
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT max(created_at) FROM payments").Scan(&payments))

	doings := run(t, url, seed.Small)
	require.Equal(t, "moving the clock on by 24h0m", doings[0][:28], doings)

	var behind, future float64
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT extract(epoch FROM now() - max(at)),
		extract(epoch FROM max(at) - now()) FROM (SELECT created_at FROM posts UNION ALL SELECT occurred_at FROM views
		UNION ALL SELECT occurred_at FROM comments UNION ALL SELECT occurred_at FROM shares) AS everything(at)`,
	).Scan(&behind, &future))
	require.Less(t, behind, 60.0)
	require.LessOrEqual(t, future, 0.0, "what the service wrote meanwhile is not moved into the future")

	var unmoved time.Time
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT max(created_at) FROM payments").Scan(&unmoved))
	require.Equal(t, payments, unmoved)
	_, err := conn.Exec(t.Context(), "DELETE FROM posts WHERE id = $1", served)
	require.NoError(t, err)
	require.Equal(t, before, fingerprintOf(t, conn, "posts", "views", "comments", "shares"))
}

func TestAnotherScaleOrEditionReplacesTheRows(t *testing.T) {
	t.Parallel()
	url, conn := database(t)
	run(t, url, parts) // whose rows nothing knows any more, as those of an older edition
	require.ErrorIs(t, seed.Run(t.Context(), url, seed.Options{Scale: seed.Small}), seed.ErrNotEmpty)
	require.Contains(t, replace(t, url, seed.Small)[0], "replacing the parts data")
	require.Equal(t, smallRows, fingerprint(t, conn))

	_, err := conn.Exec(t.Context(), "UPDATE seed SET edition = edition - 1")
	require.NoError(t, err)
	require.Contains(t, replace(t, url, seed.Small)[0], "replacing the small data")
	require.Equal(t, smallRows, fingerprint(t, conn))
	require.Contains(t, run(t, url, parts)[0], "replacing the small data", "it holds what a seed has written, and no more")
}

// A row that no seed has written keeps every table from being emptied, also where a seed has written the others.
func TestRun_RowsOfOthersBesideOurs(t *testing.T) {
	t.Parallel()
	for table, insert := range map[string]string{
		"users": "INSERT INTO users (id, name) VALUES (9999, 'a customer')",
		"views": "INSERT INTO views (post_id, user_id) VALUES (1, 1)",
		"payments": `WITH gone AS (DELETE FROM payments WHERE id = 1)
			INSERT INTO payments (id, reference, amount_minor, currency) VALUES (9999, 'theirs', 1, 'EUR')`,
		"settlements": "INSERT INTO settlements (reference, amount_minor, currency) VALUES ('theirs', 1, 'EUR')",
	} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			url, conn := database(t)
			run(t, url, seed.Small)
			_, err := conn.Exec(t.Context(), insert)
			require.NoError(t, err)
			before := fingerprint(t, conn)
			err = seed.Run(t.Context(), url, seed.Options{Scale: parts})
			require.ErrorIs(t, err, seed.ErrNotEmpty)
			require.ErrorContains(t, err, "table "+table)
			require.ErrorContains(t, err, "-replace")
			require.Equal(t, before, fingerprint(t, conn))
			require.Contains(t, replace(t, url, parts)[0], "replacing the small data")
		})
	}
}

func TestRowsOfOthersAreNotTouched(t *testing.T) {
	t.Parallel()
	url, conn := database(t)
	_, err := conn.Exec(t.Context(), "INSERT INTO users (name) VALUES ('a customer')")
	require.NoError(t, err)
	require.ErrorIs(t, seed.Run(t.Context(), url, seed.Options{Scale: seed.Small}), seed.ErrNotEmpty)
	var users int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM users").Scan(&users))
	require.Equal(t, 1, users)
}

// TestAFullDiskSaysSo lets Postgres itself refuse, with the code that it has for it.
func TestAFullDiskSaysSo(t *testing.T) {
	t.Parallel()
	url, conn := database(t)
	_, err := conn.Exec(t.Context(), `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
		$$BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = 'could not extend file'; END$$;
		CREATE TRIGGER full_disk BEFORE INSERT ON views EXECUTE FUNCTION full_disk()`)
	require.NoError(t, err)
	err = seed.Run(t.Context(), url, seed.Options{Scale: seed.Small})
	require.ErrorContains(t, err, "loading views: the disk of Postgres is full")
	require.ErrorContains(t, err, "the same command goes on from there")

	_, err = conn.Exec(t.Context(), "DROP TRIGGER full_disk ON views")
	require.NoError(t, err)
	run(t, url, seed.Small)
	require.Equal(t, smallRows, fingerprint(t, conn))
}

func TestALostConnectionSaysSo(t *testing.T) {
	t.Parallel()
	url, conn := database(t)
	err := seed.Run(t.Context(), url, seed.Options{Scale: seed.Small, Report: func(p seed.Progress) {
		if p.Doing == "loading shares" {
			cut(t, conn)
		}
	}})
	require.ErrorContains(t, err, "loading shares: the connection to Postgres was lost")
	run(t, url, seed.Small)
	require.Equal(t, smallRows, fingerprint(t, conn))
}

func TestAMissingSchemaSaysSo(t *testing.T) {
	t.Parallel()
	err := seed.Run(t.Context(), servicetest.EmptyPostgres(t), seed.Options{Scale: seed.Small})
	require.ErrorContains(t, err, "app migrate")
}

// TestTheShapeIsWhatTheDemoNeeds holds what dashboards, load scripts and jobs rely on, at either scale.
func TestTheShapeIsWhatTheDemoNeeds(t *testing.T) {
	t.Parallel()
	url, conn := database(t)
	run(t, url, seed.Small)
	for question, want := range map[string]string{
		"a third of the posts is in the window": `SELECT count(*) FILTER (WHERE created_at > newest - interval '24 h')
			BETWEEN 0.3 * count(*) AND 0.36 * count(*) FROM posts, seed`,
		"most events count for them": `SELECT count(*) FILTER (WHERE created_at > newest - interval '24 h')
			> 0.7 * count(*) FROM views JOIN posts ON posts.id = post_id, seed`,
		"events come after their post and before the newest": `SELECT
			bool_and(occurred_at BETWEEN created_at AND newest) FROM views JOIN posts ON posts.id = post_id, seed`,
		"one post of a hundred draws a quarter": `SELECT sum(n) FILTER (WHERE rank <= 20)
			BETWEEN 0.25 * sum(n) AND 0.5 * sum(n) FROM (SELECT count(*) AS n,
			row_number() OVER (ORDER BY count(*) DESC) AS rank FROM views GROUP BY post_id) AS posts`,
		"97 of 100 payments agree": `SELECT 100 * count(*) FILTER (WHERE p.amount_minor = s.amount_minor
			AND p.currency = s.currency) = 97 * count(*) FROM payments p LEFT JOIN settlements s USING (reference)`,
		"1 of 100 was never settled": `SELECT 100 * count(*) FILTER (WHERE s IS NULL) = count(*)
			FROM payments p LEFT JOIN settlements s USING (reference)`,
		"nothing is reconciled yet": `SELECT bool_and(status = 'pending') FROM payments`,
		"the planner knows the data": `SELECT count(*) = 7 AND bool_and(n_live_tup > 0 AND last_analyze IS NOT NULL
			AND last_vacuum IS NOT NULL) FROM pg_stat_user_tables
			WHERE relname IN ('users', 'posts', 'views', 'comments', 'shares', 'payments', 'settlements')`,
	} {
		var holds bool
		require.NoError(t, conn.QueryRow(t.Context(), want).Scan(&holds), question)
		require.True(t, holds, question)
	}
}

func TestParseScale(t *testing.T) {
	t.Parallel()
	scale, err := seed.ParseScale("full")
	require.NoError(t, err)
	require.Equal(t, 20_000, scale.Posts)
	_, err = seed.ParseScale("medium")
	require.ErrorContains(t, err, "small and full")
}

func database(t *testing.T) (url string, conn *pgx.Conn) {
	url = servicetest.Postgres(t)
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return url, conn
}

// run seeds and returns what was done, each activity once.
func run(t *testing.T, url string, scale seed.Scale) (doings []string) {
	t.Helper()
	return runWith(t, url, seed.Options{Scale: scale})
}

// replace is run with -replace.
func replace(t *testing.T, url string, scale seed.Scale) (doings []string) {
	t.Helper()
	return runWith(t, url, seed.Options{Scale: scale, Replace: true})
}

func runWith(t *testing.T, url string, o seed.Options) (doings []string) {
	t.Helper()
	o.Report = func(p seed.Progress) {
		if !slices.Contains(doings, p.Doing) {
			doings = append(doings, p.Doing)
		}
	}
	require.NoError(t, seed.Run(t.Context(), url, o))
	return doings
}

// cut ends the connection of a seed from the server's side.
func cut(t *testing.T, conn *pgx.Conn) {
	_, err := conn.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name = 'nervous seed' AND datname = current_database()`)
	require.NoError(t, err)
}

// fingerprint is a hash of all rows in the order in which they lie, with times relative to the newest.
func fingerprint(t *testing.T, conn *pgx.Conn) string {
	return fingerprintOf(t, conn, "users", "posts", "views", "comments", "shares", "payments", "settlements")
}

func fingerprintOf(t *testing.T, conn *pgx.Conn, tables ...string) string {
	t.Helper()
	columns := map[string]string{
		"users": "id, name", "posts": "id, author_id, title, newest - created_at",
		"views": "post_id, user_id, newest - occurred_at", "shares": "post_id, user_id, newest - occurred_at",
		"comments":    "post_id, user_id, newest - occurred_at, body",
		"payments":    "id, reference, amount_minor, currency, status, newest - created_at",
		"settlements": "reference, amount_minor, currency, newest - settled_at",
	}
	var hashes []string
	for _, table := range tables {
		hashes = append(hashes, fmt.Sprintf(
			"(SELECT string_agg(concat_ws('|', %s), E'\n' ORDER BY %s.ctid) FROM %[2]s, seed)", columns[table], table))
	}
	var hash string
	all := "SELECT md5(concat(" + strings.Join(hashes, ", ") + "))"
	require.NoError(t, conn.QueryRow(t.Context(), all).Scan(&hash))
	return hash
}

// tableFiles are where the tables lie on disk: a rewritten one lies elsewhere.
func tableFiles(t *testing.T, conn *pgx.Conn) (files string) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT string_agg(pg_relation_filenode(oid)::text, ' ' ORDER BY oid)
		FROM pg_class WHERE relname IN ('posts', 'views', 'comments', 'shares')`).Scan(&files))
	return files
}
