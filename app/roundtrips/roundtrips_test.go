package roundtrips_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/roundtrips"
)

func Example() {
	ctx := roundtrips.With(context.Background(), roundtrips.New("GET /posts/trending"))

	// An instrumented client does this after each answer:
	roundtrips.From(ctx).Add(roundtrips.Postgres, 2, 30*time.Millisecond)

	tally := roundtrips.From(ctx)
	fmt.Println(tally.Operation(), tally.Count(roundtrips.Postgres), tally.Time(roundtrips.Postgres))
	// Output: GET /posts/trending 2 30ms
}

func TestWorkWithoutATallyCostsNothing(t *testing.T) {
	t.Parallel()
	tally := roundtrips.From(t.Context())
	require.Nil(t, tally)
	tally.Add(roundtrips.Redis, 1, time.Second)
	tally.SetStrategy("lease")
	require.Zero(t, tally.Count(roundtrips.Redis))
	require.Zero(t, tally.Time(roundtrips.Redis))
	require.Empty(t, tally.Strategy())
	require.Empty(t, tally.Operation())
}

func TestInnerTallyHidesTheOuter(t *testing.T) {
	t.Parallel()
	outer, inner := roundtrips.New("request"), roundtrips.New("fill")
	ctx := roundtrips.With(roundtrips.With(t.Context(), outer), inner)
	roundtrips.From(ctx).Add(roundtrips.Postgres, 2, 0)
	require.EqualValues(t, 2, inner.Count(roundtrips.Postgres))
	require.Zero(t, outer.Count(roundtrips.Postgres), "background work must not charge the request that caused it")
}

func TestConcurrentAddsAreNotLost(t *testing.T) {
	t.Parallel()
	tally := roundtrips.New("burst")
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			for range 100 {
				tally.Add(roundtrips.Redis, 1, time.Microsecond)
				tally.SetStrategy("lease")
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 5000, tally.Count(roundtrips.Redis))
	require.Equal(t, 5*time.Millisecond, tally.Time(roundtrips.Redis))
	require.Zero(t, tally.Count(roundtrips.Postgres))
	require.Equal(t, "lease", tally.Strategy())
}
