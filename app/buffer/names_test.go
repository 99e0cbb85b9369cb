package buffer_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
)

// running is a family whose Run goes on in this process until the test ends.
func running(t *testing.T, buffers *buffer.Buffers[int64], continuous ...string) (stop func()) {
	t.Helper()
	var open []*buffer.Buffer[int64]
	for _, name := range continuous {
		open = append(open, buffers.Open(name))
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- buffers.Run(ctx, open...) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, buffers.Shutdown(context.WithoutCancel(t.Context())))
	})
	t.Cleanup(stop)
	return stop
}

// Two environments share a Redis. Each has a database of its own, and only its own ids may get there.
func TestBuffers_Namespace(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		type environment struct {
			*ledger
			live *buffer.Buffer[int64]
		}
		var environments []environment
		for _, namespace := range []string{"", "staging", "staging:buffer", "{staging}", "%7Bstaging}"} {
			l := newLedger(t, payments)
			buffers := buffer.New(b.client(t), l.pool, buffer.Options[int64]{
				Namespace: namespace, Name: family, Apply: mark, FlushAge: often,
			})
			running(t, buffers, live)
			environments = append(environments, environment{l, buffers.Open(live)})
		}
		for i, e := range environments {
			first := int64(i)*100 + 1
			require.NoError(t, e.live.Add(t.Context(), Payments{live, first, first + 99}.ids()...))
		}
		for i, e := range environments {
			first := int64(i)*100 + 1
			e.settled(t, first, first+99)
			e.holds(t, first, first+99)
		}
	})
}

// A family a and its buffer b:c is not the family a:b and its buffer c.
func TestBuffers_FamiliesOfAnyNameAreApart(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		families := []struct{ family, name string }{
			{"a", "b:c"}, {"a:b", "c"}, {"a%3Ab", "c"}, {"{a", "b:c"}, {"a}", "b:c"}, {strings.Repeat("a", 100), "b:c"},
		}
		l := newLedger(t, int64(len(families)))
		for i, f := range families {
			buf := buffer.New(b.client(t), l.pool, buffer.Options[int64]{Name: f.family, Apply: mark}).Open(f.name)
			require.NoError(t, buf.Add(t.Context(), int64(i+1)))
		}
		for i, f := range families {
			buf := buffer.New(b.client(t), l.pool, buffer.Options[int64]{Name: f.family, Apply: mark}).Open(f.name)
			done, err := buf.Flush(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 1, done.Items, "%q", f)
			l.holds(t, 1, int64(i+1))
		}
	})
}

// A process that has never heard of a buffer recovers what another one has left there, under its real name.
func TestBuffers_RecoveryKnowsARealName(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		names := []string{"", "a:b", "}", "{a}", "sha256:00", strings.Repeat("long", 50), "%7B", "é\n"}
		l := newLedger(t, int64(len(names)))
		for i, name := range names {
			dying, die := context.WithCancel(t.Context())
			buf := buffer.New(b.client(t), l.pool, buffer.Options[int64]{
				Name: family, Apply: func(context.Context, pgx.Tx, buffer.Generation, []int64) (int64, error) {
					die()
					return 0, context.Canceled
				},
			}).Open(name)
			require.NoError(t, buf.Add(t.Context(), int64(i+1)))
			_, err := buf.Flush(dying)
			require.ErrorIs(t, err, context.Canceled)
		}
		var mu sync.Mutex
		applied := map[string][]int64{}
		running(t, buffer.New(b.client(t), l.pool, buffer.Options[int64]{
			Name: family, FlushAge: often,
			Apply: func(_ context.Context, _ pgx.Tx, g buffer.Generation, ids []int64) (int64, error) {
				mu.Lock()
				defer mu.Unlock()
				applied[g.Buffer] = append(applied[g.Buffer], ids...)
				return int64(len(ids)), nil
			},
		}))
		eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(applied) == len(names)
		})
		for i, name := range names {
			require.Equal(t, []int64{int64(i + 1)}, applied[name], "%q", name)
		}
	})
}

// oldRelease is a replica of a release without namespaces, as far as Redis sees it.
type oldRelease struct {
	rdb    redis.UniversalClient
	member string
}

func (o oldRelease) key(what string) string { return "buffer:{" + o.member + "}:" + what }

// add is what the old release's script did.
func (o oldRelease) add(t *testing.T, ids ...int64) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	const old = `redis.call('SADD', KEYS[1], unpack(ARGV))
		if redis.call('HEXISTS', KEYS[2], 'since') == 0 then
			local now = redis.call('TIME')
			redis.call('HSET', KEYS[2], 'since', string.format('%d%06d', now[1], now[2]))
		end
		return redis.call('SCARD', KEYS[1])`
	now := now(t, o.rdb)
	require.NoError(t, o.rdb.ZAdd(ctx, "buffers", redis.Z{Score: float64(now), Member: o.member}).Err())
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	require.NoError(t, o.rdb.Eval(ctx, old, []string{o.key("open"), o.key("open:manifest")}, args...).Err())
}

func now(t *testing.T, rdb redis.UniversalClient) int64 {
	t.Helper()
	now, err := rdb.Time(context.WithoutCancel(t.Context())).Result()
	require.NoError(t, err)
	return now.UnixMilli()
}

// cut makes what is open a generation whose flusher holds the lease for a while.
func (o oldRelease) cut(t *testing.T, lease string) (id string) {
	t.Helper()
	id = uuid.NewString()
	const old = `redis.call('RENAME', KEYS[2], KEYS[5])
		redis.call('RENAME', KEYS[1], KEYS[4])
		redis.call('ZADD', KEYS[3], redis.call('HGET', KEYS[5], 'since'), ARGV[1])
		redis.call('SET', KEYS[6], 'the token of an old replica', 'PX', ARGV[2])`
	generation := o.key("gen:" + id)
	err := o.rdb.Eval(t.Context(), old, []string{
		o.key("open"), o.key("open:manifest"), o.key("generations"),
		generation, generation + ":manifest", o.key("lease:" + id),
	}, id, lease).Err()
	require.ErrorIs(t, err, redis.Nil)
	return id
}

// Old replicas add, flush and die beside new ones, which flush what old ones leave.
func TestBuffers_OldReleaseBesideNew(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l, rdb := newLedger(t, payments), b.client(t)
		old, job := oldRelease{rdb, member}, oldRelease{rdb, family + ":job {7}"}
		// Left before the new release starts: a generation whose flusher is dead, and what is open behind it.
		old.add(t, Payments{live, 1, 100}.ids()...)
		dead := old.cut(t, "1")
		old.add(t, Payments{live, 101, 200}.ids()...)
		job.add(t, Payments{live, 201, 300}.ids()...)
		other := oldRelease{rdb, "other:live"}
		other.add(t, 999)

		s := settings{FlushAge: often, Lease: lease, Run: true, Continuous: []string{live}}
		replicas := []*process{startProcess(t, b, l, s), startProcess(t, b, l, s)}
		replicas[0].add(live, 301, 400)
		l.settled(t, 1, 400)
		// An old replica is still there. It holds a generation, and dies with it.
		old.add(t, Payments{live, 401, 500}.ids()...)
		l.settled(t, 1, 500)
		old.add(t, Payments{live, 501, 600}.ids()...)
		l.settled(t, 1, 600)
		l.holds(t, 1, 600)

		gone := func(o oldRelease) bool {
			return rdb.Exists(t.Context(), o.key("open")).Val()+rdb.Exists(t.Context(), o.key("generations")).Val()+
				rdb.Exists(t.Context(), o.key("gen:"+dead)).Val() == 0
		}
		eventually(t, func() bool { return gone(old) && gone(job) })
		require.EqualValues(t, 1, rdb.Exists(t.Context(), other.key("open")).Val(), "another family's")
		committed := 0
		for _, r := range replicas {
			committed += int(r.flushes()["committed cut"] + r.flushes()["committed recovered"])
		}
		eventually(t, func() bool { return l.generations(t) == committed })
	})
}

// A generation that a living old replica holds is left to it, and taken over when its lease has expired.
func TestBuffers_OldReleaseHoldsALease(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l, rdb := newLedger(t, payments), b.client(t)
		old := oldRelease{rdb, member}
		old.add(t, Payments{live, 1, 100}.ids()...)
		id := old.cut(t, "3600000")
		w := startProcess(t, b, l, settings{FlushAge: often, Lease: lease, Run: true, Continuous: []string{live}})
		w.add(live, 101, 200)
		old.add(t, Payments{live, 201, 300}.ids()...)
		l.settled(t, 101, 200)
		eventually(t, func() bool { return w.Metric(buffer.MetricGenerations, "buffer")[family] == 1 })
		require.Zero(t, l.marked(t, 1, 100))
		require.NoError(t, rdb.Del(t.Context(), old.key("lease:"+id)).Err())
		l.settled(t, 1, 100)
		eventually(t, func() bool { return rdb.Exists(t.Context(), old.key("generations")).Val() == 0 })
	})
}

// Once old replicas are gone, their index is forgotten, and looking for it is rare.
func TestBuffers_OldIndexIsForgotten(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l, rdb := newLedger(t, payments), b.client(t)
		old := oldRelease{rdb, member}
		old.add(t, 4)
		require.NoError(t, rdb.ZAdd(t.Context(), "buffers", redis.Z{Score: longAgo(), Member: member}).Err())
		require.NoError(t, rdb.ZAdd(t.Context(), "buffers", redis.Z{Score: longAgo(), Member: "other:live"}).Err())
		running(t, buffer.New(rdb, l.pool, buffer.Options[int64]{Name: family, Apply: mark, FlushAge: often}), live)
		eventually(t, func() bool {
			members, err := rdb.ZRange(t.Context(), "buffers", 0, -1).Result()
			require.NoError(t, err)
			return len(members) == 1 && members[0] == "other:live"
		})
		l.holds(t, 4, 4)
	})
}
