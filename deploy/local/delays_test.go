package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var committed = time.Now()

// commit and waiter are spans as they arrive: the holder's commit, and a look-up that waited for it.
func commit(trace string) *span {
	return &span{trace: trace, id: "c", name: "evalsha", start: committed, end: committed.Add(time.Millisecond),
		attributes: map[string]string{"db.stored_procedure.name": "cache.commit"}}
}

func waiter(n int, work string, delay time.Duration) *span {
	return &span{trace: fmt.Sprintf("w%d", n), id: "w", name: "cache.get", end: committed.Add(delay),
		attributes: map[string]string{"cache.result": "wait"}, links: []link{{work, "g", "holder"}}}
}

func TestTheDelayIsFromTheCommitToTheEndOfTheWait(t *testing.T) {
	t.Parallel()
	m := newTraceMemory()
	// Exports of different replicas arrive in any order.
	m.keep(waiter(0, "work", 90*time.Millisecond))
	m.keep(commit("work"))
	for n := 1; n < 100; n++ {
		m.keep(waiter(n, "work", time.Duration(n%10)*time.Millisecond))
	}
	m.keep(commit("other work"))
	m.keep(waiter(100, "other work", time.Second))
	require.InDelta(t, 9, *m.waiterDelayP99(t.Context(), phase{Waits: new(100.0)}), 0, "one of a hundred may be slower")
	require.InDelta(t, 1000, *m.waiterDelayP99(t.Context(), phase{Waits: new(1.0)}), 0)

	m.endDelays()
	m.keep(waiter(101, "work", time.Hour))
}

func TestAnUnknownPartOfTheWaitsIsNotGuessed(t *testing.T) {
	t.Parallel()
	m := newTraceMemory()
	m.keep(commit("work"))
	m.keep(waiter(0, "work", time.Millisecond))
	m.keep(waiter(1, "work of which no commit is known", time.Millisecond))
	m.keep(waiter(2, "work of which no commit is known", time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.Nil(t, m.waiterDelayP99(ctx, phase{Waits: new(2.0)}))
}

func TestNobodyWaited(t *testing.T) {
	t.Parallel()
	require.Nil(t, newTraceMemory().waiterDelayP99(t.Context(), phase{}))
	require.Nil(t, newTraceMemory().waiterDelayP99(t.Context(), phase{Waits: new(0.0)}))
}
