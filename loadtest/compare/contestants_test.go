package compare_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dtm-labs/rockscache"
	peer "github.com/go-redis/cache/v9"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/trending"
)

const key = "top"

// ttl is long enough for nothing to expire while it is measured.
const ttl = 24 * time.Hour

type (
	list = trending.List
	load func(context.Context) (list, error)
	get  func(context.Context) (list, error)
)

// contestant is a way to remember a list in Redis: open returns one replica's.
type contestant struct {
	name string
	open func(b *testing.B, rdb *redis.Client, load load) get
}

// All keep JSON where they leave the choice, or the comparison would be one of codecs; go-redis/cache is there also as
// it comes, with msgpack and compression.
var contestants = []contestant{
	{"nervous", lease},
	{"nervous_ReadThrough", readThrough},
	{"go-redis_cache", goRedisCache(json.Marshal, json.Unmarshal)},
	{"go-redis_cache_msgpack", goRedisCache(nil, nil)},
	{"rockscache", rocks},
}

func lease(b *testing.B, rdb *redis.Client, load load) get {
	c := cache.New(rdb, options(load))
	ctx, stop := context.WithCancel(context.WithoutCancel(b.Context()))
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		require.NoError(b, <-ended)
	})
	return func(ctx context.Context) (trending.List, error) {
		list, _, err := c.Get(ctx, key)
		return list, err
	}
}

func readThrough(_ *testing.B, rdb *redis.Client, load load) get {
	c := cache.NewReadThrough(rdb, options(load))
	return func(ctx context.Context) (trending.List, error) {
		list, _, err := c.Get(ctx, key)
		return list, err
	}
}

func options(load load) cache.Options[trending.List] {
	return cache.Options[trending.List]{
		Name: "compare",
		TTL:  ttl,
		Load: func(ctx context.Context, _ string) (trending.List, error) { return load(ctx) },
	}
}

func goRedisCache(marshal peer.MarshalFunc, unmarshal peer.UnmarshalFunc) func(*testing.B, *redis.Client, load) get {
	return func(_ *testing.B, rdb *redis.Client, load load) get {
		c := peer.New(&peer.Options{Redis: rdb, Marshal: marshal, Unmarshal: unmarshal})
		return func(ctx context.Context) (list trending.List, err error) {
			err = c.Once(&peer.Item{
				Ctx: ctx, Key: key, TTL: ttl, Value: &list,
				Do: func(*peer.Item) (any, error) { return load(ctx) },
			})
			return list, err
		}
	}
}

func rocks(_ *testing.B, rdb *redis.Client, load load) get {
	c := rockscache.NewClient(rdb, rockscache.NewDefaultOptions())
	return func(ctx context.Context) (list trending.List, err error) {
		encoded, err := c.Fetch2(ctx, key, ttl, func() (string, error) {
			list, err := load(ctx)
			if err != nil {
				return "", err
			}
			encoded, err := json.Marshal(list)
			return string(encoded), err
		})
		if err != nil {
			return list, err
		}
		return list, json.Unmarshal([]byte(encoded), &list)
	}
}

// topTen is as large as what the service remembers: 2.5 KB as JSON.
func topTen(context.Context) (trending.List, error) {
	day := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	list := trending.List{GeneratedAt: day}
	for i := range int64(10) {
		list.Posts = append(list.Posts, trending.Post{
			ID: 100_000 + i, Title: strings.Repeat("A headline. ", 8), CreatedAt: day,
			Score: 54_321, Views: 12_345, Comments: 678, Shares: 90,
			Author: trending.Author{ID: i, Name: fmt.Sprint("Author ", i)},
		})
	}
	return list, nil
}
