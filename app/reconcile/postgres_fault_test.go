package reconcile_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/migrations"
	"nervous/app/reconcile"
	"nervous/app/servicetest"
)

// Postgres goes away in the middle of a run, for longer than its worker may be silent. When it is back, the run goes on
// where it was, and the live events that came meanwhile are marked.
func TestPostgresIsAwayForSomeSeconds(t *testing.T) {
	onEachStrategy(t, func(t *testing.T, by reconcile.Strategy) {
		const away = 3 * time.Second
		s, stop, start := restartable(t)
		release := s.hold(t)
		o := reconcile.Options{Silence: silence, BufferLease: lease, FlushAge: often}
		replicas := []*process{s.replica(t, o), s.replica(t, o)}
		id := replicas[0].start(by).Job.ID
		s.blocked(t)

		stop()
		release() // which the end of Postgres has done
		back := time.After(away)
		for id := int64(1); id <= 100; id++ {
			require.Equal(t, reconcile.PathBuffered, replicas[1].settled(id).Path)
		}
		<-back // the fault lasts that long
		start()
		job := s.over(t, id)
		require.Equal(t, reconcile.Done, job.State, job.Err)
		require.Greater(t, job.Attempts, 1)
		require.EqualValues(t, payments, job.Examined)
		eventually(t, func() bool {
			return s.client(t).Exists(t.Context(), "default:buffer:{reconcile:live}:generations",
				"default:buffer:{reconcile:live}:open").Val() == 0
		})
		s.holds(t, payments)
	})
}

// restartable has a Postgres of the test's own, to take away and bring back.
func restartable(t *testing.T) (s stores, stop, start func()) {
	t.Helper()
	//nolint:usetesting // another user's servers cannot enter t.TempDir where it is root's
	dir, err := os.MkdirTemp("", "nervous-kept-")
	require.NoError(t, err)
	options := servicetest.Options{Dir: dir, Settings: map[string]string{"fsync": "off"}}
	server, err := servicetest.StartPostgres(t.Context(), options)
	require.NoError(t, err)
	options.Port = server.Port
	t.Cleanup(func() {
		require.NoError(t, server.Stop())
		require.NoError(t, os.RemoveAll(dir))
	})
	_, err = migrations.Up(t.Context(), server.URL("postgres"))
	require.NoError(t, err)
	s = storesAt(t, server.URL("postgres"), servicetest.Redis(t))
	stop = func() { require.NoError(t, server.Stop()) }
	start = func() {
		var err error
		server, err = servicetest.StartPostgres(t.Context(), options)
		require.NoError(t, err)
	}
	return s, stop, start
}
