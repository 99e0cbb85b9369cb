package reconcile_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
	"nervous/app/servicetest"
)

// Redis forgets everything while a buffered run collects. Postgres sees that something is left, and the run begins
// anew.
func TestRedisLosesItsDataDuringARun(t *testing.T) {
	t.Parallel()
	for how, lose := range map[string]func(*testing.T, stores){
		"flushed":   func(t *testing.T, s stores) { require.NoError(t, s.client(t).FlushAll(t.Context()).Err()) },
		"restarted": func(t *testing.T, s stores) { require.NoError(t, s.redis.Restart(t.Context())) },
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := newStores(t)
			replica, slow := s.behindProxy(t, reconcile.Options{BufferLease: lease})
			slow.Delay(2 * time.Second)
			id := replica.start(reconcile.Buffered).Job.ID
			eventually(t, func() bool { return len(s.kept(t, id)) > 0 })
			lose(t, s)
			slow.Delay(0)

			job := s.over(t, id)
			require.Equal(t, reconcile.Done, job.State, job.Err)
			require.Equal(t, found, job.Counts)
			require.Equal(t, 1, job.Attempts)
			require.Contains(t, replica.job().Events, "buffer.lost")
			s.holds(t, payments)
		})
	}
}

// behindProxy is a replica that reaches Redis through a proxy.
func (s stores) behindProxy(t *testing.T, o reconcile.Options) (*process, *servicetest.Proxy) {
	t.Helper()
	proxy := servicetest.NewProxy(t, s.Redis)
	s.Redis = proxy.Addr()
	return s.replica(t, o), proxy
}

// Redis is away, full, or hangs, for the whole of a run: everything is marked directly, and counted as such.
func TestARunWithoutRedis(t *testing.T) {
	t.Parallel()
	for how, break_ := range map[string]func(*testing.T, stores){
		"away":  func(t *testing.T, s stores) { require.NoError(t, s.redis.Kill()) },
		"hangs": func(t *testing.T, s stores) { require.NoError(t, s.redis.Pause()) },
		"full":  func(t *testing.T, s stores) { fill(t, s) },
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := newStores(t)
			s.RedisTimeout = 250 * time.Millisecond
			replica := s.replica(t, reconcile.Options{BufferLease: lease})
			break_(t, s)
			job := s.over(t, replica.start(reconcile.Buffered).Job.ID)
			require.Equal(t, reconcile.Done, job.State, job.Err)
			require.Equal(t, found, job.Counts)
			require.EqualValues(t, agreeing, job.Degraded)
			require.Equal(t, 1, job.Attempts)
			s.holds(t, payments)
		})
	}
}

// fill leaves Redis with no room, and nothing that it may evict.
func fill(t *testing.T, s stores) {
	t.Helper()
	require.NoError(t, s.client(t).ConfigSet(t.Context(), "maxmemory", "1").Err())
}
