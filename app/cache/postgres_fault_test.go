package cache_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest"
)

// Postgres dies under a query. That costs one error for those who have nothing else and a pause for those who come
// next, not a queue of replicas that try one after another; who has a stale value is served it all the while.
func TestPostgresGoesDownDuringAFill(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		postgres, lock := postgresWithAUser(t)
		asking := settings{
			Database: postgres.URL("postgres"),
			TTL:      time.Millisecond, StaleFor: time.Hour, SoftTimeout: -1, Cooldown: time.Minute,
		}
		one, other := startProcess(t, b, asking), startProcess(t, b, asking)
		require.Equal(t, []any{"Ada", cache.ResultMiss}, valueAndResult([]Got{one.get("known")}))
		one.started()
		<-time.After(2 * asking.TTL) // the value is stale by now

		lock()
		require.Equal(t, []any{"Ada", cache.ResultStale}, valueAndResult([]Got{one.get("known")}))
		one.started() // its refresh, which hangs in the database
		waiting := one.ask(Ask{"new", 50})
		one.started()
		one.waiters(49)
		elsewhere := other.ask(Ask{"new", 50})
		other.waiters(50)
		require.NoError(t, postgres.Stop())

		for _, answers := range []<-chan []Got{waiting, elsewhere, one.ask(Ask{"new", 50}), other.ask(Ask{"new", 50})} {
			got := <-answers
			require.Len(t, got, 50)
			for _, g := range got {
				require.NotEmpty(t, g.Err)
			}
		}
		eventually(t, func() bool { return !one.filling() })
		for _, p := range []*process{one, other} {
			for _, g := range <-p.ask(Ask{"known", 50}) {
				require.Equal(t, []any{"Ada", cache.ResultStale}, []any{g.Value, g.Result})
			}
		}
		require.Len(t, one.fills(), 3, "the first, the refresh and the new key")
		require.Empty(t, other.fills())
	})
}

// postgresWithAUser starts a Postgres of the test's own, and returns how to make every query of its table hang.
func postgresWithAUser(t *testing.T) (server *servicetest.PostgresServer, lock func()) {
	t.Helper()
	server, err := servicetest.StartPostgres(t.Context(), servicetest.Options{Settings: map[string]string{"fsync": "off"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	conn, err := pgx.Connect(t.Context(), server.URL("postgres"))
	require.NoError(t, err)
	// Also so that the garbage collector does not end the connection, and the lock with it.
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	_, err = conn.Exec(t.Context(), "CREATE TABLE users (id int, name text); INSERT INTO users VALUES (1, 'Ada')")
	require.NoError(t, err)
	return server, func() {
		_, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
		require.NoError(t, err)
	}
}
