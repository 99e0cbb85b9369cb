package reconcile_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
	"nervous/app/roundtrips"
)

// often is a FlushAge for who does not want to wait.
const often = 50 * time.Millisecond

func TestALiveEventIsOneRoundTripToRedis(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	_, err := s.asker.Settled(t.Context(), 1) // which opens the connection
	require.NoError(t, err)
	tally := roundtrips.New("test")
	path, err := s.asker.Settled(roundtrips.With(t.Context(), tally), middle)
	require.NoError(t, err)
	require.Equal(t, reconcile.PathBuffered, path)
	require.EqualValues(t, 1, tally.Count(roundtrips.Redis))
	require.Zero(t, tally.Count(roundtrips.Postgres))
	require.Zero(t, s.marked(t), "nobody flushes")
}

// Events come to several replicas, more than once, for payments that agree and for others: each that agrees is marked,
// once, with a fraction of the round-trips.
func TestLiveEvents(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	o := reconcile.Options{FlushAge: often}
	replicas := []*process{s.replica(t, o), s.replica(t, o), s.replica(t, o)}
	const last = 200
	var callers sync.WaitGroup
	for i, p := range replicas {
		callers.Go(func() {
			for range 2 {
				for id := int64(1 + i*30); id <= last; id++ { // each payment comes to one of them at least
					if err := p.Try("Settled", id, &Event{}); err != nil {
						t.Error(err)
					}
				}
				for _, unknown := range []int64{payments + 1, 1 << 62} {
					if err := p.Try("Settled", unknown, &Event{}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	callers.Wait()
	eventually(t, func() bool { return s.marked(t) == agree(last) })
	s.holds(t, last)
	events, flushes := 0.0, s.count(t, "SELECT count(*) FROM buffer_generations")
	for _, p := range replicas {
		events += p.Metric(reconcile.MetricEvents, "outcome")["buffered"]
	}
	require.InDelta(t, 2*(200+170+140+3*2), events, 0)
	t.Logf("%v events, %d flushes", events, flushes)
	require.Less(t, float64(flushes), events/2)
	require.Zero(t, s.count(t, "SELECT count(*) FROM payments WHERE reconciled_by IS NOT NULL"), "no run has marked them")

	before := s.count(t, "SELECT count(*) FROM marks")
	replicas[0].settled(middle / 100) // marked before
	eventually(t, func() bool { return s.count(t, "SELECT count(*) FROM buffer_generations") > flushes })
	require.Equal(t, before, s.count(t, "SELECT count(*) FROM marks"))
}

// With Redis away or full, few events at a time are written to Postgres; the others are refused, and so are all when
// Postgres is not to be had either.
func TestLiveEventsWithoutRedis(t *testing.T) {
	t.Parallel()
	for how, break_ := range map[string]func(*testing.T, stores){
		"away": func(t *testing.T, s stores) { require.NoError(t, s.redis.Kill()) },
		"full": fill,
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := newStores(t)
			r := s.reconciler(t, reconcile.Options{Direct: 2, DirectWait: 5 * time.Second})
			break_(t, s)
			path, err := r.Settled(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, reconcile.PathDirect, path)
			for _, id := range []int64{1, 20, 50, 80, payments + 1} { // again, and some that do not agree
				path, err := r.Settled(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, reconcile.PathDirect, path)
			}
			s.holds(t, 1)

			// Two wait in Postgres, a third for its turn; all of them give up.
			s.hold(t)
			refused := make(chan error, 3)
			for range 3 {
				go func() {
					_, err := r.Settled(context.WithoutCancel(t.Context()), middle)
					refused <- err
				}()
			}
			eventually(t, func() bool { return s.waiting(t) == 2 })
			for range 3 {
				require.ErrorIs(t, <-refused, reconcile.ErrUnavailable)
			}
			ctx, leave := context.WithCancel(t.Context())
			leave()
			_, err = r.Settled(ctx, middle)
			require.ErrorIs(t, err, context.Canceled, "the caller has gone, and nobody refused him")
			s.holds(t, 1)
		})
	}
}

// Redis loses its data after it has taken events. A run that is started from time to time finds what they were about.
func TestARunFindsTheEventsThatRedisLost(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	for id := int64(1); id <= 100; id++ {
		path, err := s.asker.Settled(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, reconcile.PathBuffered, path)
	}
	require.NoError(t, s.redis.Restart(t.Context()))
	s.replica(t, reconcile.Options{FlushAge: often, Every: time.Second})
	eventually(t, func() bool { return s.marked(t) == agreeing })
	s.holds(t, payments)
}

// Several replicas flush events, runs of every strategy go on beside them, and all of it is reset and begins anew.
// Nobody ever waits for another in a circle.
func TestNobodyDeadlocks(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	o := reconcile.Options{FlushAge: 20 * time.Millisecond, FlushSize: 50}
	replicas := []*process{s.replica(t, o), s.replica(t, o)}
	events, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range 2 {
		callers.Go(func() {
			for events.Err() == nil {
				if _, err := s.asker.Settled(events, 1+rand.Int64N(payments)); err != nil && events.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	strategies := []reconcile.Strategy{reconcile.Buffered, reconcile.SingleStatement, reconcile.BatchedReads}
	for i := range 5 {
		for _, by := range strategies {
			job := s.over(t, replicas[i%2].start(by).Job.ID)
			require.Equal(t, reconcile.Done, job.State, job.Err)
			require.Equal(t, 1, job.Attempts)
			require.Equal(t, job.Total, job.Examined)
			s.holds(t, payments)
			require.NoError(t, s.asker.Reset(t.Context()))
		}
	}
	stop()
	callers.Wait()
	require.Zero(t, s.count(t, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
	for _, p := range replicas {
		require.Zero(t, p.Metric("buffer.flushes", "outcome")["failed"])
	}
}
