package ratelimit_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/ratelimit"
)

// The benchmarks assert nothing of time: a figure is worth as much as the machine was idle.
//
//	go test -run '^$' -bench . ./app/ratelimit

// BenchmarkCheckAllowed is a check that Redis admits, of callers who have spent some of a limit of 100.
func BenchmarkCheckAllowed(b *testing.B) {
	l := oneRedis(b).limiter(b, ratelimit.Options{})
	p := ratelimit.Policy{Name: "overall", Limit: 100, Window: time.Minute}
	compiled := compile(b, l, p)[0]
	for i := 0; b.Loop(); i++ {
		d, err := l.Check(b.Context(), fmt.Sprint("user:", i/100), 1, compiled)
		if err != nil || !d.Allowed {
			b.Fatal(d, err)
		}
	}
}

// BenchmarkCheckRemembered is one more check of an abuser's, whom Redis has denied. Its ratio is how many of these a
// replica answers in the time of one that Redis admits.
func BenchmarkCheckRemembered(b *testing.B) {
	l := oneRedis(b).limiter(b, ratelimit.Options{})
	served := ratelimit.Policy{Name: "served", Limit: 1_000, Window: time.Minute}
	spend(b, l, caller, 100, served)
	began := time.Now()
	spend(b, l, caller, 500, served)
	each := time.Since(began) / 500

	p := ratelimit.Policy{Name: "overall", Limit: 100, Window: time.Hour}
	spend(b, l, caller, p.Limit, p)
	require.False(b, check(b, l, caller, 1, p).Allowed)
	compiled := compile(b, l, p)[0]
	for b.Loop() {
		d, err := l.Check(b.Context(), caller, 1, compiled)
		if err != nil || d.Source != ratelimit.FromMemory {
			b.Fatal(d, err)
		}
	}
	b.ReportMetric(float64(each)*float64(b.N)/float64(b.Elapsed()), "denied/served")
}
