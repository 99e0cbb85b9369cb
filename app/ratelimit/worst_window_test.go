package ratelimit_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/ratelimit"
)

// Three processes with 32 clients each spend one caller's units as fast as they can, for several windows, by real time.
// No window holds more than the limit: not one that is counted from the first to be sent to the last answer received,
// which is the only thing that could prove that there were more. And the limit is reached.
func TestNoWindowHoldsMoreThanTheLimit(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		p := ratelimit.Policy{Name: "overall", Limit: 20, Window: time.Second, Strategy: ratelimit.Exact}
		all := b.burst(t, p, func() (from, until time.Time) {
			from = time.Now().Add(500 * time.Millisecond)
			return from, from.Add(4 * p.Window)
		})
		worst := all.worstWindow(p.Window)
		t.Logf("worst window %d of %d; %d admitted, %d denied, %d round-trips",
			worst, p.Limit, len(all.Admitted), all.Denied, all.Asked)
		require.Equal(t, p.Limit, worst)
		require.GreaterOrEqual(t, len(all.Admitted), 3*int(p.Limit), "they come back as soon as they may")
	})
}

// The same around the end of a fixed window: it admits up to twice the limit within one.
func TestAFixedWindowHoldsMoreThanTheLimitAroundItsEnd(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		p := ratelimit.Policy{Name: "overall", Limit: 20, Window: 2 * time.Second, Strategy: ratelimit.FixedWindow}
		all := b.burst(t, p, func() (from, until time.Time) {
			end := time.Now().Truncate(p.Window).Add(2 * p.Window)
			return end.Add(-p.Window / 2), end.Add(p.Window / 2)
		})
		worst := all.worstWindow(p.Window)
		t.Logf("worst window %d of %d", worst, p.Limit)
		require.Greater(t, worst, p.Limit)
		require.LessOrEqual(t, worst, 2*p.Limit)
	})
}

// burst has three replicas spend, in the time that when returns once they run.
func (b backend) burst(t *testing.T, p ratelimit.Policy, when func() (from, until time.Time)) (all Spent) {
	t.Helper()
	var ended []chan error
	each := make([]Spent, 3)
	replicas := make([]process, len(each))
	for i := range each {
		replicas[i] = startProcess(t, b, settings{Replica: fmt.Sprint(i)})
	}
	from, until := when()
	for i, r := range replicas {
		done := make(chan error, 1)
		go func() {
			done <- r.Try("Spend", Burst{
				Ask{caller, 1, []ratelimit.Policy{p}}, 32, from.UnixNano(), until.UnixNano(),
			}, &each[i])
		}()
		ended = append(ended, done)
	}
	for i, done := range ended {
		require.NoError(t, <-done)
		require.Zero(t, each[i].Fallbacks)
		all.Admitted = append(all.Admitted, each[i].Admitted...)
		all.Denied, all.Asked = all.Denied+each[i].Denied, all.Asked+each[i].Asked
	}
	return all
}

// worstWindow is the most that was surely admitted within one window.
func (s Spent) worstWindow(window time.Duration) (worst int64) {
	for _, first := range s.Admitted {
		var within int64
		for _, a := range s.Admitted {
			if a.Sent >= first.Sent && a.Received-first.Sent < window.Nanoseconds() {
				within++
			}
		}
		worst = max(worst, within)
	}
	return worst
}

func TestTheWorstWindowIsCountedFromSentToReceived(t *testing.T) {
	t.Parallel()
	at := func(sent, received int64) Sent { return Sent{sent, received} }
	admitted := []Sent{at(0, 5), at(1, 99), at(2, 100), at(50, 60), at(99, 103)}
	require.EqualValues(t, 3, Spent{Admitted: admitted}.worstWindow(100))
	slices.Reverse(admitted)
	require.EqualValues(t, 3, Spent{Admitted: admitted}.worstWindow(100))
	require.EqualValues(t, 5, Spent{Admitted: admitted}.worstWindow(104))
}
