package cache_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

// hanging is a loader that ends only with its context.
func hanging(began chan<- struct{}) func(context.Context, string) (string, error) {
	return func(ctx context.Context, _ string) (string, error) {
		began <- struct{}{}
		<-ctx.Done()
		return "", ctx.Err()
	}
}

// shutdown ends a cache with that patience, and says how long that took.
func shutdown(t *testing.T, c *cache.Cache[string], patience time.Duration) (time.Duration, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	err := c.Shutdown(ctx)
	return time.Since(began), err
}

func TestCache_Shutdown(t *testing.T) {
	t.Run("waits for a fill that ends in time", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			l := newLoader()
			c := run(t, b.client(t), cache.Options[string]{Load: func(ctx context.Context, key string) (string, error) {
				if key != "k" {
					return "at once", nil
				}
				return l.load(ctx, key)
			}})
			filling := get(t.Context(), inProcess{Cache: c}, "k")
			<-l.started
			ended := make(chan error, 1)
			go func() {
				_, err := shutdown(t, c, time.Minute)
				ended <- err
			}()
			n := 0
			eventually(t, func() bool {
				n++
				_, _, err := c.Get(t.Context(), fmt.Sprint("another", n))
				return errors.Is(err, cache.ErrShutdown)
			})
			select {
			case err := <-ended:
				require.Fail(t, "it has not waited", err)
			default:
			}
			l.release <- nil
			require.NoError(t, <-ended)
			got := <-filling
			require.NoError(t, got.err)
			require.True(t, got.info.Stored)
			requireGet(t, c, "k", "k #1", cache.ResultHit)
			require.EqualValues(t, 1, l.runs.Load())
		})
	})

	t.Run("cancels fills that hang and releases their leases", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			began := make(chan struct{}, 10)
			options := cache.Options[string]{
				Load: hanging(began), TTL: time.Hour, StaleFor: time.Hour, Lease: time.Hour, LoadTimeout: time.Hour,
				SoftTimeout: -1,
			}
			l := newLoader()
			other := options
			other.Load = l.load
			c, successor := run(t, b.client(t), options), run(t, b.client(t), other)
			for _, key := range []string{"early", "stale"} {
				l.release <- nil
				requireGet(t, successor, key, key+" #"+map[string]string{"early": "1", "stale": "2"}[key], cache.ResultMiss)
				<-l.started
			}
			b.age(t, "early", 58*time.Minute)
			b.age(t, "stale", 61*time.Minute)
			missed := get(t.Context(), inProcess{Cache: c}, "missed")
			<-began
			requireGet(t, c, "early", "early #1", cache.ResultHit)
			<-began
			requireGet(t, c, "stale", "stale #2", cache.ResultStale)
			<-began
			waiting := get(t.Context(), inProcess{Cache: successor}, "missed")

			const patience = 200 * time.Millisecond
			took, err := shutdown(t, c, patience)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.GreaterOrEqual(t, took, patience)
			require.Less(t, took, patience+slack)
			require.Error(t, (<-missed).err)
			<-l.started // the successor, and it has not waited for the lease
			l.release <- nil
			require.Equal(t, cache.ResultMiss, (<-waiting).info.Result)
			for _, key := range []string{"missed", "early", "stale"} {
				require.Zero(t, b.at(t, key).Exists(t.Context(), cache.LeaseKey(key)).Val(), key)
			}
			requireGet(t, c, "stale", "stale #2", cache.ResultStale) // a fill is not to be had, and what is there is
			requireGet(t, c, "early", "early #1", cache.ResultHit)
			_, _, err = c.Refresh(t.Context(), "early")
			require.ErrorIs(t, err, cache.ErrShutdown)
			took, err = shutdown(t, c, time.Minute)
			require.NoError(t, err, "a second call has nothing to cancel")
			require.Less(t, took, slack)
		})
	})

	t.Run("ends a wait for another replica", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			l := newLoader()
			options := cache.Options[string]{Load: l.load, Lease: time.Hour, LoadTimeout: time.Hour}
			filler, c := run(t, b.client(t), options), run(t, b.client(t), options)
			filling := get(t.Context(), inProcess{Cache: filler}, "k")
			<-l.started
			before := calls(t, b.at(t, "k"), "evalsha")
			waiting := get(t.Context(), inProcess{Cache: c}, "k")
			b.scriptsRun(t, "k", before+1)
			_, err := shutdown(t, c, time.Millisecond)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, (<-waiting).err, cache.ErrShutdown)
			l.release <- nil
			require.True(t, (<-filling).info.Stored, "the lease of another replica is not its own to release")
		})
	})

	t.Run("returns within its bound while Redis hangs", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			began := make(chan struct{}, 10)
			c := run(t, b.client(t), cache.Options[string]{Load: hanging(began), LoadTimeout: time.Hour})
			get(t.Context(), inProcess{Cache: c}, "k")
			<-began
			for _, node := range b.nodes {
				require.NoError(t, node.Pause())
			}
			took, err := shutdown(t, c, 100*time.Millisecond)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Less(t, took, 600*time.Millisecond+slack)
			for _, node := range b.nodes {
				require.NoError(t, node.Resume())
			}
		})
	})
}
