package ratelimit_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/ratelimit"
)

// away is a limiter without Redis, so that its fallback decides.
func away(t *testing.T, o ratelimit.Options) *ratelimit.Limiter {
	t.Helper()
	b := oneRedis(t)
	require.NoError(t, b.nodes[0].Kill())
	return b.limiter(t, o)
}

// A caller that spends a high limit unit by unit, each at a time of its own, takes no more than a caller may.
func TestFallback_LogOfACallerIsBounded(t *testing.T) {
	t.Parallel()
	clock := newClock()
	l := away(t, ratelimit.Options{}.At(clock.now))
	p := ratelimit.Policy{Name: "overall", Limit: 10_000, Window: time.Hour}
	compiled := compile(t, l, p)[0]
	for range p.Limit {
		clock.advance(p.Window / 20_000)
		d, err := l.Check(t.Context(), caller, 1, compiled)
		require.NoError(t, err)
		require.True(t, d.Allowed)
	}
	require.False(t, check(t, l, caller, 1, p).Allowed)
	_, spenders, bytes := l.Remembered()
	require.Equal(t, 1, spenders)
	require.Less(t, bytes, int64(9_000))
}

// To be shorter the log forgets when exactly units were spent: they count longer, by at most a 128th of the window, and
// never shorter.
func TestFallback_CoarseLogAdmitsNoMoreThanAnExactOne(t *testing.T) {
	t.Parallel()
	clock := newClock()
	l := away(t, ratelimit.Options{}.At(clock.now))
	p := ratelimit.Policy{Name: "overall", Limit: 1_000, Window: time.Hour}
	var admitted []admission
	for range 4_000 {
		clock.advance(p.Window / 1_500)
		if check(t, l, caller, 1, p).Allowed {
			admitted = append(admitted, admission{clock.now(), 1})
		}
	}
	require.LessOrEqual(t, worstWindow(admitted, p.Window), p.Limit)
	until := p.Window + p.Window/128 + p.Window/1_500
	for i := range len(admitted) - int(p.Limit) {
		require.LessOrEqual(t, admitted[i+int(p.Limit)].at.Sub(admitted[i].at), until, "admission %d", i)
	}
}

func TestFallback_BytesOfAllCallersAreBounded(t *testing.T) {
	t.Parallel()
	const bound = 100_000
	l := away(t, ratelimit.Options{FallbackBytes: bound})
	for i := range 1_000 {
		require.True(t, check(t, l, fmt.Sprint("user:", i), 1, overall).Allowed)
	}
	_, spenders, bytes := l.Remembered()
	require.LessOrEqual(t, bytes, int64(bound))
	require.Greater(t, spenders, bound/500)
	require.Less(t, spenders, 1_000)
	spend(t, l, "user:0", overall.Limit, overall) // the first gave way, and is new now
	reset := compile(t, l, overall)[0]
	require.Error(t, l.Reset(t.Context(), "user:0", reset), "there is no Redis")
}

// What a thousand callers take who have spent 10,000 units each, at once or not.
func TestFallback_WhatCallersCostThisProcess(t *testing.T) {
	b := oneRedis(t)
	l := b.limiter(t, ratelimit.Options{Connections: -1})
	p := ratelimit.Policy{Name: "overall", Limit: 10_000, Window: time.Hour}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	check(t, l, "the first", 10_000, p)
	before, began := heap(), time.Now()
	const callers = 500
	for i := range callers {
		require.True(t, check(t, l, fmt.Sprint("user:", i), 10_000, p).Allowed)
	}
	took := time.Since(began) / callers
	each := (heap() - before) / callers
	t.Logf("%d bytes a caller; %v a check of cost 10,000", each, took)
	require.Less(t, each, int64(1_500))
	runtime.KeepAlive(l)
}
