package cache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest"
)

// inProcess is a replica's cache over the test's Redis, as far as one process can pretend to be several.
type inProcess struct {
	*cache.Cache[string]
	rdb *redis.Client
}

func newReplica(t *testing.T, server *servicetest.RedisServer, options cache.Options[string]) inProcess {
	t.Helper()
	if options.Name == "" {
		options.Name = "test"
	}
	rdb := redis.NewClient(server.Options())
	c := cache.New(rdb, options)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		_ = c.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ran
		rdb.Close()
	})
	return inProcess{c, rdb}
}

// loader counts its runs and blocks each until the test lets it go.
type loader struct {
	runs    atomic.Int64
	started chan struct{}
	release chan error
}

func newLoader() *loader {
	return &loader{started: make(chan struct{}, 100), release: make(chan error, 100)}
}

func (l *loader) load(ctx context.Context, key string) (string, error) {
	n := l.runs.Add(1)
	l.started <- struct{}{}
	select {
	case err := <-l.release:
		return fmt.Sprintf("%s #%d", key, n), err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

type answer struct {
	value string
	info  cache.Info
	err   error
}

func get(ctx context.Context, c inProcess, key string) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		value, info, err := c.Get(ctx, key)
		answers <- answer{value, info, err}
	}()
	return answers
}

func TestOneFillForAllReplicas(t *testing.T) {
	t.Parallel()
	server, l := servicetest.Redis(t), newLoader()
	var replicas []inProcess
	for i := range 3 {
		replicas = append(replicas, newReplica(t, server, cache.Options[string]{Load: l.load, Replica: fmt.Sprint(i)}))
	}
	const each = 100
	var answers []<-chan answer
	for i := range 3 * each {
		answers = append(answers, get(t.Context(), replicas[i%3], "hot"))
	}
	<-l.started
	l.release <- nil

	results := map[cache.Result]int{}
	for _, a := range answers {
		got := <-a
		require.NoError(t, got.err)
		require.Equal(t, "hot #1", got.value)
		results[got.info.Result]++
	}
	require.EqualValues(t, 1, l.runs.Load())
	require.Equal(t, 1, results[cache.ResultMiss])
	require.Zero(t, results[cache.ResultBypass]+results[cache.ResultError]+results[cache.ResultStale])

	_, info, err := replicas[0].Get(t.Context(), "hot")
	require.NoError(t, err)
	require.Equal(t, cache.ResultHit, info.Result)
}

func TestTheFirstCallerMayLeave(t *testing.T) {
	t.Parallel()
	server, l := servicetest.Redis(t), newLoader()
	c := newReplica(t, server, cache.Options[string]{Load: l.load})
	impatient, leave := context.WithCancel(t.Context())
	first := get(impatient, c, "k")
	<-l.started
	second := get(t.Context(), c, "k")
	leave()
	require.ErrorIs(t, (<-first).err, context.Canceled)
	l.release <- nil
	got := <-second
	require.NoError(t, got.err)
	require.Equal(t, "k #1", got.value)
}

func TestADeadLeaderIsSucceeded(t *testing.T) {
	t.Parallel()
	server, l := servicetest.Redis(t), newLoader()
	c := newReplica(t, server, cache.Options[string]{Load: l.load})
	l.release <- nil
	const lease = 300 * time.Millisecond
	require.NoError(t, c.rdb.Set(t.Context(), cache.LeaseKey("k"), "ffff||the dead", lease).Err())
	got := <-get(t.Context(), c, "k")
	require.NoError(t, got.err)
	require.Equal(t, cache.ResultMiss, got.info.Result, "whoever takes over fills")
}

func TestALateCommitDoesNotUndoANewerValue(t *testing.T) {
	t.Parallel()
	server, slow, quick := servicetest.Redis(t), newLoader(), newLoader()
	paused := newReplica(t, server, cache.Options[string]{Load: slow.load})
	other := newReplica(t, server, cache.Options[string]{Load: quick.load})

	late := get(t.Context(), paused, "k")
	<-slow.started
	require.NoError(t, other.rdb.Del(t.Context(), cache.LeaseKey("k")).Err()) // as if it had expired during a pause
	quick.release <- nil
	require.Equal(t, cache.ResultMiss, (<-get(t.Context(), other, "k")).info.Result)
	newer, err := other.rdb.Get(t.Context(), cache.ValueKey("k")).Result()
	require.NoError(t, err)

	slow.release <- nil
	got := <-late
	require.NoError(t, got.err, "the caller gets what was computed for it")
	require.False(t, got.info.Stored)
	stored, err := other.rdb.Get(t.Context(), cache.ValueKey("k")).Result()
	require.NoError(t, err)
	require.Equal(t, newer, stored)
}

func TestAnExpiredLeaseThatNobodyTookStillCommits(t *testing.T) {
	t.Parallel()
	server, l := servicetest.Redis(t), newLoader()
	c := newReplica(t, server, cache.Options[string]{Load: l.load})
	first := get(t.Context(), c, "k")
	<-l.started
	require.NoError(t, c.rdb.Del(t.Context(), cache.LeaseKey("k")).Err())
	l.release <- nil
	require.True(t, (<-first).info.Stored)
}

func TestDeletedDataDoesNotComeBack(t *testing.T) {
	t.Parallel()
	server, l := servicetest.Redis(t), newLoader()
	c := newReplica(t, server, cache.Options[string]{Load: l.load})
	before := get(t.Context(), c, "k")
	<-l.started
	require.NoError(t, c.Delete(t.Context(), "k"))
	after := get(t.Context(), c, "k")
	<-l.started // the one who came after the deletion does not board the flight from before it
	l.release <- nil
	l.release <- nil
	old, fresh := <-before, <-after
	require.NoError(t, errors.Join(old.err, fresh.err))
	require.False(t, old.info.Stored && fresh.info.Stored)
	require.True(t, fresh.info.Stored)
	hit := <-get(t.Context(), c, "k")
	require.Equal(t, cache.ResultHit, hit.info.Result)
	require.Equal(t, fresh.value, hit.value)
}

func TestStaleIsServedWhileItIsRefreshed(t *testing.T) {
	t.Parallel()
	server, l := servicetest.Redis(t), newLoader()
	c := newReplica(t, server, cache.Options[string]{
		Load: l.load, TTL: 50 * time.Millisecond, StaleFor: time.Minute, SoftTimeout: -1,
	})
	l.release <- nil
	require.Equal(t, cache.ResultMiss, (<-get(t.Context(), c, "k")).info.Result)
	<-l.started
	var stale answer
	eventually(t, func() bool {
		stale = <-get(t.Context(), c, "k")
		return stale.info.Result == cache.ResultStale
	})
	require.Equal(t, "k #1", stale.value)
	require.Negative(t, stale.info.TTL)
	<-l.started
	l.release <- nil
	eventually(t, func() bool {
		value, _, err := c.Get(t.Context(), "k")
		return err == nil && value == "k #2"
	})
}

func TestAHotKeyIsRefreshedBeforeItExpires(t *testing.T) {
	t.Parallel()
	server := servicetest.Redis(t)
	var runs atomic.Int64
	c := newReplica(t, server, cache.Options[string]{
		Load: func(context.Context, string) (string, error) { return fmt.Sprint(runs.Add(1)), nil },
		TTL:  2 * time.Second,
	})
	_, _, err := c.Get(t.Context(), "k")
	require.NoError(t, err)
	eventually(t, func() bool { // steady load: everybody is served from memory, and the value is renewed behind them
		_, info, err := c.Get(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, cache.ResultHit, info.Result)
		return runs.Load() >= 3
	})
}

func TestAFailedFillCoolsDown(t *testing.T) {
	t.Parallel()
	server, l := servicetest.Redis(t), newLoader()
	c := newReplica(t, server, cache.Options[string]{Load: l.load, Cooldown: time.Minute})
	broken := errors.New("postgres is down")
	l.release <- broken
	require.ErrorIs(t, (<-get(t.Context(), c, "k")).err, broken)
	require.ErrorIs(t, (<-get(t.Context(), c, "k")).err, cache.ErrCooldown)
	require.EqualValues(t, 1, l.runs.Load())
}

func TestAPanickingLoaderIsAnError(t *testing.T) {
	t.Parallel()
	c := newReplica(t, servicetest.Redis(t), cache.Options[string]{
		Load: func(context.Context, string) (string, error) { panic("boom") },
	})
	require.ErrorContains(t, (<-get(t.Context(), c, "k")).err, "boom")
}

func TestALoaderThatIgnoresItsDeadlineIsLeftBehind(t *testing.T) {
	t.Parallel()
	forever := make(chan struct{})
	t.Cleanup(func() { close(forever) })
	c := newReplica(t, servicetest.Redis(t), cache.Options[string]{
		Load:        func(context.Context, string) (string, error) { <-forever; return "", nil },
		LoadTimeout: 50 * time.Millisecond, Lease: time.Hour,
	})
	require.ErrorIs(t, (<-get(t.Context(), c, "k")).err, context.DeadlineExceeded)
	require.ErrorIs(t, (<-get(t.Context(), c, "k")).err, cache.ErrCooldown, "the lease has been given up")
}

func TestWithoutRedisOneFillAProcess(t *testing.T) {
	t.Parallel()
	server, l := servicetest.Redis(t), newLoader()
	c := newReplica(t, server, cache.Options[string]{Load: l.load})
	require.NoError(t, server.Kill())
	const callers = 50
	var group sync.WaitGroup
	var together atomic.Int64
	for range callers {
		group.Go(func() {
			_, info, err := c.Get(t.Context(), "k")
			if err == nil && info.Result == cache.ResultBypass && !info.Stored {
				together.Add(1)
			}
		})
	}
	<-l.started
	l.release <- nil
	// Those who came after the first flight had landed take another.
	go func() {
		for range l.started {
			l.release <- nil
		}
	}()
	group.Wait()
	close(l.started)
	require.EqualValues(t, callers, together.Load())
	require.Less(t, l.runs.Load(), int64(callers))
}

func TestAnUnreadableValueIsReplaced(t *testing.T) {
	t.Parallel()
	server := servicetest.Redis(t)
	numbers := redis.NewClient(server.Options())
	t.Cleanup(func() { numbers.Close() })
	other := cache.New(numbers, cache.Options[int]{
		Name: "test", Load: func(context.Context, string) (int, error) { return 42, nil },
	})
	_, _, err := other.Get(t.Context(), "k")
	require.NoError(t, err)

	c := newReplica(t, server, cache.Options[string]{
		Load: func(context.Context, string) (string, error) { return "words", nil },
	})
	got := <-get(t.Context(), c, "k")
	require.NoError(t, got.err)
	require.Equal(t, cache.ResultMiss, got.info.Result)
	require.Equal(t, cache.ResultHit, (<-get(t.Context(), c, "k")).info.Result)

	require.NoError(t, c.rdb.Set(t.Context(), cache.ValueKey("k"), "garbage", 0).Err())
	require.Equal(t, cache.ResultMiss, (<-get(t.Context(), c, "k")).info.Result)
}

func TestReadThroughStampedes(t *testing.T) {
	t.Parallel()
	server, l := servicetest.Redis(t), newLoader()
	rdb := redis.NewClient(server.Options())
	t.Cleanup(func() { rdb.Close() })
	c := cache.NewReadThrough(rdb, cache.Options[string]{Name: "test", Load: l.load})
	const callers = 20
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			_, info, err := c.Get(t.Context(), "k")
			require.NoError(t, err)
			require.Equal(t, cache.ResultMiss, info.Result)
		})
	}
	for range callers {
		<-l.started // everybody computes: that is the flaw which this type is kept to show
	}
	for range callers {
		l.release <- nil
	}
	group.Wait()
	_, info, err := c.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, cache.ResultHit, info.Result)
	require.NoError(t, c.Delete(t.Context(), "k"))
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	eventuallyWithin(t, 20*time.Second, condition)
}

func eventuallyWithin(t *testing.T, patience time.Duration, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, patience, 5*time.Millisecond)
}
