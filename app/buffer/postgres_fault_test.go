package buffer_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
	"nervous/app/migrations"
	"nervous/app/servicetest"
)

// Postgres is away for some seconds. One generation waits, what comes meanwhile collects behind it, and both are
// applied when Postgres is back.
func TestPostgresIsAwayForSomeSeconds(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	const away = 3 * time.Second
	l, stop, start := restartable(t, payments)
	s := settings{Lease: time.Second, FlushAge: often, Run: true, Continuous: []string{live}}
	workers := []*process{startProcess(t, b, l, s), startProcess(t, b, l, s)}
	workers[0].add(live, 1, 100)
	l.settled(t, 1, 100)
	b.empty(t, member)

	stop()
	until := time.Now().Add(away)
	last, rdb := int64(100), b.at(t, member)
	for ; time.Now().Before(until); last++ {
		workers[0].add(live, last+1, last+1)
		generations, err := rdb.ZCard(t.Context(), key(member, "generations")).Result()
		require.NoError(t, err)
		require.LessOrEqual(t, generations, int64(1), "a new one each second helps nobody")
		<-time.After(20 * time.Millisecond) // that the adds are spread over the time is the point
	}
	holds := workers[0].stats()
	require.Equal(t, last-100, holds.Depth)
	require.Equal(t, 1, holds.Generations)
	require.Greater(t, holds.OldestAge, away-time.Second)

	start()
	l.settled(t, 1, last)
	b.empty(t, member)
	l.holds(t, 1, last)
	for _, w := range workers {
		eventually(t, func() bool { return w.Metric(buffer.MetricOldestAge, "buffer")[family] == 0 })
	}
}

// restartable is a ledger in a Postgres of the test's own, and how to take it away and bring it back.
func restartable(t *testing.T, payments int64) (l *ledger, stop, start func()) {
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
	l = ledgerAt(t, server.URL("postgres"), payments)
	stop = func() { require.NoError(t, server.Stop()) }
	start = func() {
		var err error
		server, err = servicetest.StartPostgres(t.Context(), options)
		require.NoError(t, err)
	}
	return l, stop, start
}
