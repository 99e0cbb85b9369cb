package cache

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/singleflight"
)

// registration keeps the version of this process's values in the list of versions, which Delete reads. A release that
// is rolled back must not find the values that were deleted meanwhile by another release.
type registration struct {
	rdb    redis.UniversalClient
	key    string
	member string
	// keeps is how long Redis may keep a value that is stored just before the registration expires.
	keeps time.Duration

	once singleflight.Group
	mu   sync.Mutex
	last time.Time // of the last registration; zero before the first
	// tried is when it was last tried.
	tried time.Time
}

const (
	// registerEvery is how often a version is registered again: what a Redis that lost its data does not know of.
	registerEvery = 30 * time.Second
	// registrationLasts is how long after its last registration a process may still store values.
	registrationLasts = 10 * time.Minute
)

// due says that the version is to be registered before a value is stored. Mostly Run has done it. While the
// registration before it still counts, one that fails delays one caller, and not all.
func (r *registration) due() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	age := time.Since(r.last)
	return age > registrationLasts || age > registerEvery && time.Since(r.tried) > registerEvery
}

// ensure registers the version, once for all that call it at the same time.
func (r *registration) ensure(ctx context.Context) error {
	done := r.once.DoChan("", func() (any, error) {
		return nil, r.register(context.WithoutCancel(ctx)) // for all callers that wait: the client's time-outs bound it
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case registered := <-done:
		return registered.Err
	}
}

// unless returns the error of ensure, or nil while the registration before it still counts.
func (r *registration) unless(err error) error {
	if r.age() > registrationLasts {
		return err
	}
	return nil
}

func (r *registration) age() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.last)
}

func (r *registration) register(ctx context.Context) error {
	begun := time.Now()
	r.mu.Lock()
	r.tried = begun
	r.mu.Unlock()
	lasts := registrationLasts + r.keeps
	if err := registerScript.Run(ctx, r.rdb, []string{r.key}, r.member, lasts.Milliseconds()).Err(); err != nil {
		return fmt.Errorf("register version: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = begun
	return nil
}

// renew registers again and again until the context ends.
func (r *registration) renew(ctx context.Context, detach func(context.Context) context.Context) {
	ticker := time.NewTicker(registerEvery / 2)
	defer ticker.Stop()
	for {
		_ = r.register(detach(ctx)) // tryLease finds out
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// version is one shape of values that may be stored, and how long its tombstones must stay.
type version struct {
	name   string
	memory time.Duration
}

func (v version) member() string {
	return v.name + "|" + strconv.FormatInt(v.memory.Milliseconds(), 10)
}

// versions lists all registered versions, and this process's own.
func (c *Cache[V]) versions(ctx context.Context) ([]version, error) {
	members, err := c.rdb.ZRange(ctx, c.names.versions, 0, -1).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("list versions: %w", err)
	}
	own := version{c.options.Version, c.options.memory()}
	longest := map[string]time.Duration{own.name: own.memory}
	all := []version{own}
	for _, m := range members {
		name, text, found := cutLast(m, "|")
		millis, err := strconv.ParseInt(text, 10, 64)
		if !found || err != nil {
			return nil, fmt.Errorf("list versions: %s has the member %q, which is not version|milliseconds", c.names.versions, m)
		}
		known, listed := longest[name]
		longest[name] = max(known, time.Duration(millis)*time.Millisecond)
		if !listed {
			all = append(all, version{name: name})
		}
	}
	for i := range all {
		all[i].memory = longest[all[i].name]
	}
	return all, nil
}

func cutLast(s, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+len(separator):], true
	}
	return s, "", false
}
