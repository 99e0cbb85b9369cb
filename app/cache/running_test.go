package cache_test

import (
	"context"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

// client is a client of the backend, as a service would have it. It ends with the test.
func (b backend) client(t *testing.T, changes ...func(*settings)) redis.UniversalClient {
	t.Helper()
	s := settings{Redis: b.addresses(), Cluster: b.cluster != nil}
	for _, change := range changes {
		change(&s)
	}
	b.reach(&s)
	rdb := s.client()
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// reach completes the settings with the way to the backend.
func (b backend) reach(s *settings) {
	s.Certificate = b.certificate
	if s.Through == nil {
		s.Through = b.through
	}
}

// run makes a cache and runs it until the test ends.
func run[V any](t *testing.T, rdb redis.UniversalClient, options cache.Options[V]) *cache.Cache[V] {
	t.Helper()
	if options.Name == "" {
		options.Name = "test"
	}
	c := cache.New(rdb, options)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return c
}

// returns is a loader that has one answer.
func returns[V any](value V) func(context.Context, string) (V, error) {
	return func(context.Context, string) (V, error) { return value, nil }
}

// requireGet asks once and compares value and result.
func requireGet[V any](t *testing.T, c *cache.Cache[V], key string, value V, result cache.Result) {
	t.Helper()
	got, info, err := c.Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, []any{value, result}, []any{got, info.Result})
}
