package reconcile_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
	"nervous/app/servicetest"
)

func (s stores) behindHost(t *testing.T) (stores, *servicetest.Host) {
	t.Helper()
	u, err := url.Parse(s.Database)
	require.NoError(t, err)
	h := servicetest.NewHost(t, u.Host)
	u.Host = h.Addr()
	s.Database = u.String()
	return s, h
}

// Postgres fails over, and no connection is closed. A run that comes then, or goes on, takes less than half a minute
// more.
func TestPostgresFailsOverSilently(t *testing.T) {
	t.Parallel()
	const bound = 30 * time.Second
	for name, midway := range map[string]bool{"before a run": false, "during a run": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStores(t)
			far, h := s.behindHost(t)
			r := far.reconciler(t, reconcile.Options{BufferLease: lease})
			ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
			t.Cleanup(stop)
			go func() { _ = r.Run(ctx) }()
			first := s.start(t, reconcile.SingleStatement, 1).ID
			require.Equal(t, reconcile.Done, s.over(t, first).State)

			release := s.hold(t)
			if !midway {
				release()
				h.FailOver()
			}
			id := s.start(t, reconcile.Buffered, 0).ID
			if midway {
				s.blocked(t)
				h.FailOver()
				release()
			}
			began := time.Now()
			job := s.over(t, id)
			t.Logf("%v after the failover: %s, attempts %d", time.Since(began).Round(time.Millisecond), job.State, job.Attempts)
			require.Equal(t, reconcile.Done, job.State, job.Err)
			require.Less(t, time.Since(began), bound)
			s.holds(t, payments)
		})
	}
}
