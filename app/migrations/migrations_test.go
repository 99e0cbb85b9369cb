package migrations_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"nervous/app/migrations"
	"nervous/app/servicetest"
)

func TestReplicasThatStartTogetherApplyEachMigrationOnce(t *testing.T) {
	t.Parallel()
	url := servicetest.EmptyPostgres(t)
	var replicas errgroup.Group
	applied := make([][]string, 4)
	for i := range applied {
		replicas.Go(func() (err error) {
			applied[i], err = migrations.Up(t.Context(), url)
			return err
		})
	}
	require.NoError(t, replicas.Wait())

	workers := 0
	for _, names := range applied {
		if len(names) > 0 {
			workers++
			require.Len(t, names, int(migrations.Version()))
			require.True(t, strings.HasPrefix(names[0], "00001_"), names[0])
		}
	}
	require.Equal(t, 1, workers, "one replica applies them all, the others find nothing to do")

	conn := connect(t, url)
	require.NoError(t, migrations.Check(t.Context(), conn))
	var twice int
	require.NoError(t, conn.QueryRow(t.Context(),
		"SELECT count(*) - count(DISTINCT version_id) FROM goose_db_version").Scan(&twice))
	require.Zero(t, twice)
}

func TestCheckSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	url := servicetest.EmptyPostgres(t)
	conn := connect(t, url)
	require.Equal(t, migrations.OutdatedError{Current: 0, Wanted: migrations.Version()},
		migrations.Check(t.Context(), conn), "nothing has ever been applied")

	_, err := migrations.Up(t.Context(), url)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "DELETE FROM goose_db_version WHERE version_id = $1", migrations.Version())
	require.NoError(t, err)
	require.ErrorContains(t, migrations.Check(t.Context(), conn), "app migrate")

	_, err = conn.Exec(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, true)",
		migrations.Version()+1)
	require.NoError(t, err)
	require.NoError(t, migrations.Check(t.Context(), conn), "a newer schema does not take old replicas down")
}

func TestUpSaysThatNobodyAnswers(t *testing.T) {
	t.Parallel()
	_, err := migrations.Up(t.Context(), "postgres://postgres@127.0.0.1:1/nervous?sslmode=disable")
	require.ErrorContains(t, err, "connection refused")
}

// A migration waits for a table that a transaction has locked, for seconds at a time, so that requests go on in
// between.
func TestUp_LockedTable(t *testing.T) {
	t.Parallel()
	url := servicetest.EmptyPostgres(t)
	_, err := migrations.Up(t.Context(), url)
	require.NoError(t, err)
	conn := connect(t, url)
	// As if the newest one had not run: it needs the table alone.
	_, err = conn.Exec(t.Context(), "DELETE FROM goose_db_version WHERE version_id = $1", migrations.Version())
	require.NoError(t, err)
	lock, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = lock.Exec(t.Context(), "LOCK TABLE payments IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)

	ended := make(chan error, 1)
	go func() {
		_, err := migrations.Up(t.Context(), url)
		ended <- err
	}()
	waits := func() (n int) {
		require.NoError(t, lock.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted").Scan(&n))
		return n
	}
	require.Eventually(t, func() bool { return waits() > 0 }, 20*time.Second, 10*time.Millisecond, "it waits")
	require.Eventually(t, func() bool { return waits() == 0 }, 20*time.Second, 10*time.Millisecond,
		"it lets others go first")
	require.NoError(t, lock.Rollback(t.Context()))
	require.NoError(t, <-ended)
	require.NoError(t, migrations.Check(t.Context(), conn))
}

func connect(t *testing.T, url string) *pgx.Conn {
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return conn
}
