package cache_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest/replica"
)

// links are the ids of spans by kind.
type links = map[string][]string

// gets are the spans of the process's gets that came to that result, once there are so many.
func (p *process) gets(result cache.Result, n int) (gets []replica.Span) {
	p.t.Helper()
	eventually(p.t, func() bool {
		gets = nil
		for _, span := range p.Spans(cache.SpanGet) {
			if span.Attributes["cache.result"] == string(result) {
				gets = append(gets, span)
			}
		}
		return len(gets) >= n
	})
	require.Len(p.t, gets, n, "%s", result)
	return gets
}

// one is the process's n-th span of that name, once there are so many and no more.
func (p *process) one(name string, n int) replica.Span {
	p.t.Helper()
	eventually(p.t, func() bool { return len(p.Spans(name)) >= n })
	spans := p.Spans(name)
	require.Len(p.t, spans, n, name)
	return spans[n-1]
}

// waitersFor returns once so many requests of this process know that they wait for that replica.
func (p *process) waitersFor(holder string, n float64) {
	p.t.Helper()
	eventually(p.t, func() bool { return p.Metric(cache.MetricWaiters, "holder")[holder] == n })
}

// Who waits leads to the span in which the work is done and to the fill that it ends in, whatever woke it and on
// whichever replica; who comes later, to the fill alone; and who does the work, nowhere.
func TestAWaiterLeadsToWhomItWaitsFor(t *testing.T) {
	for _, wakes := range []string{"push", "poll"} {
		t.Run(wakes, func(t *testing.T) {
			onEachBackend(t, func(t *testing.T, b backend) {
				leader, other := startProcess(t, b, settings{Held: true, Replica: "leader"}), startProcess(t, b, settings{})
				if wakes == "poll" {
					b.deafen(t)
				}
				led := leader.ask(Ask{"k", 3})
				leader.started()
				leader.waiters(2)
				waiting := other.ask(Ask{"k", 3})
				other.waitersFor("leader", 3)
				leader.release(Load{Value: "v"})
				<-led
				<-waiting

				fill, work := leader.one(cache.SpanFill, 1), leader.gets(cache.ResultMiss, 1)[0]
				require.Equal(t, work.Trace, fill.Trace)
				require.Empty(t, work.Links)
				for _, waiter := range append(leader.gets(cache.ResultWait, 2), other.gets(cache.ResultWait, 3)...) {
					require.Equal(t, links{"holder": {work.ID}, "producer": {fill.ID}}, waiter.Links)
					require.NotEqual(t, work.Trace, waiter.Trace)
				}
				require.Equal(t, map[string]float64{"flight": 2}, leader.waited())
				require.Equal(t, map[string]float64{"leader": 2}, leader.Metric(cache.MetricWaits, "holder"))
				require.Equal(t, map[string]float64{"leader": 3}, other.Metric(cache.MetricWaits, "holder"))
				if wakes == "poll" {
					require.Equal(t, map[string]float64{"poll": 1, "flight": 2}, other.waited())
				}
				for _, p := range []*process{leader, other} {
					p.get("k")
					require.Equal(t, links{"producer": {fill.ID}}, p.gets(cache.ResultHit, 1)[0].Links)
				}
			})
		})
	}
}

// A waiter may outlast whom it waited for, and then leads to the successor.
func TestAWaiterLeadsToTheSuccessor(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	held := settings{Held: true, Lease: lease, LoadTimeout: time.Minute, Replica: "dead"}
	leader := startProcess(t, b, held)
	leader.ask(Ask{"k", 1})
	leader.started()
	held.Replica = "successor"
	successor := startProcess(t, b, held)
	succeeds := successor.ask(Ask{"k", 1})
	successor.waitersFor("dead", 1)
	leader.Kill()
	successor.started()
	other := startProcess(t, b, settings{})
	waiting := other.ask(Ask{"k", 2})
	other.waitersFor("successor", 2)
	successor.release(Load{Value: "v"})
	<-succeeds
	<-waiting
	fill, work := successor.one(cache.SpanFill, 1), successor.gets(cache.ResultMiss, 1)[0]
	require.Empty(t, work.Links, "it has waited for the dead, and then did the work itself")
	for _, waiter := range other.gets(cache.ResultWait, 2) {
		require.Equal(t, links{"holder": {work.ID}, "producer": {fill.ID}}, waiter.Links)
	}
}

// Who waits in vain leads to what kept it waiting; who comes in the cooldown, to the fill that failed.
func TestAGetThatFailsLeadsToWhatFailed(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	leader := startProcess(t, b, settings{Held: true, Cooldown: time.Minute, Replica: "leader"})
	impatient := startProcess(t, b, settings{LoadTimeout: time.Second})
	other := startProcess(t, b, settings{})
	led := leader.ask(Ask{"k", 1})
	leader.started()
	require.NotEmpty(t, impatient.get("k").Err)
	waiting := other.ask(Ask{"k", 1})
	other.waitersFor("leader", 1)
	leader.release(Load{Err: "broken"})
	<-led
	<-waiting
	fill, work := leader.one(cache.SpanFill, 1), leader.gets(cache.ResultError, 1)[0]
	require.Empty(t, work.Links)
	require.Equal(t, links{"holder": {work.ID}}, impatient.gets(cache.ResultError, 1)[0].Links)
	require.Equal(t, links{"holder": {fill.ID}}, other.gets(cache.ResultError, 1)[0].Links)
}

// A refresh has a trace of its own, and leads to the get that it was begun for. Who is served stale meanwhile leads to
// the fill that produced what it got and to the refresh that it waited for, on whichever replica that is.
func TestARefreshLeadsToTheGetThatItWasBegunFor(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	remember := settings{Held: true, TTL: time.Hour, StaleFor: time.Hour, SoftTimeout: 100 * time.Millisecond}
	one, other := startProcess(t, b, remember), startProcess(t, b, remember)
	first := one.ask(Ask{"k", 1})
	one.started()
	one.release(Load{Value: "first"})
	<-first

	b.age(t, "k", 58*time.Minute)
	require.Equal(t, cache.ResultHit, one.get("k").Result)
	one.started()
	one.release(Load{Value: "second"})
	early := one.one(cache.SpanRefresh, 1)
	require.True(t, early.Root)
	hit := one.gets(cache.ResultHit, 1)[0]
	require.Contains(t, hit.Events, "refresh.early")
	require.Equal(t, links{"cause": {hit.ID}}, early.Links)
	second := one.one(cache.SpanFill, 2)
	require.Equal(t, early.Trace, second.Trace)
	require.Equal(t, "early", second.Attributes["cache.fill.cause"])

	b.age(t, "k", 61*time.Minute)
	require.Equal(t, cache.ResultStale, one.get("k").Result)
	one.started()
	require.Equal(t, cache.ResultStale, other.get("k").Result)
	one.release(Load{Value: "third"})
	late, awaited := one.one(cache.SpanRefresh, 2), other.one(cache.SpanRefresh, 1)
	require.Equal(t, late.Trace, one.one(cache.SpanFill, 3).Trace)
	mine, others := one.gets(cache.ResultStale, 1)[0], other.gets(cache.ResultStale, 1)[0]
	require.Equal(t, links{"cause": {mine.ID}}, late.Links)
	require.Equal(t, links{"cause": {others.ID}, "holder": {late.ID}}, awaited.Links)
	require.Equal(t, links{"producer": {second.ID}, "holder": {late.ID}}, mine.Links)
	require.Equal(t, links{"producer": {second.ID}, "holder": {late.ID}}, others.Links)
}

// Without Redis one request of a process does the work, and the others wait for it all the same.
func TestWithoutRedisAWaiterLeadsToWhomItWaitsFor(t *testing.T) {
	t.Parallel()
	b := oneRedis(t)
	p := startProcess(t, b, settings{Held: true})
	require.NoError(t, b.nodes[0].Kill())
	asked := p.ask(Ask{"k", 3})
	p.started()
	p.waiters(2)
	p.release(Load{Value: "v"})
	<-asked
	var work string
	led := map[string]int{}
	for _, get := range p.gets(cache.ResultBypass, 3) {
		if len(get.Links) == 0 {
			work = get.ID
		}
		for _, holder := range get.Links["holder"] {
			led[holder]++
		}
	}
	require.Equal(t, map[string]int{work: 2}, led)
}

// age has the value begin, and end, so much earlier: time need not pass for a value to become old.
func (b backend) age(t *testing.T, key string, by time.Duration) {
	t.Helper()
	b.ageName(t, cache.ValueKey(key), key, by)
}

// ageName does so with the value of any version.
func (b backend) ageName(t *testing.T, name, key string, by time.Duration) {
	t.Helper()
	node := b.at(t, key)
	stored, err := node.Get(t.Context(), name).Bytes()
	require.NoError(t, err)
	for _, offset := range []int{2, 10} { // created at, fresh until
		micros := binary.BigEndian.Uint64(stored[offset:])
		binary.BigEndian.PutUint64(stored[offset:], micros-uint64(by.Microseconds()))
	}
	require.NoError(t, node.Set(t.Context(), name, stored, redis.KeepTTL).Err())
}

// How many fills are enough is said by what the TTL and the deletions ask for.
func TestFillsCanBeHeldAgainstTheirReasons(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		p := startProcess(t, b, settings{TTL: 90 * time.Second})
		require.Equal(t, map[string]float64{cache.StrategyLease: 90}, p.Metric(cache.MetricTTL, "strategy"))
		require.Empty(t, p.Metric(cache.MetricDeletes, "strategy"))
		p.delete("k")
		require.Equal(t, map[string]float64{cache.StrategyLease: 1}, p.Metric(cache.MetricDeletes, "strategy"))
	})
}
