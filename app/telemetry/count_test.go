package telemetry

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whoever is first to count something is often not alone, and none of them may be forgotten.
func TestCountsForgetNobodyWhoIsFirst(t *testing.T) {
	t.Parallel()
	for range 1000 {
		var c counts
		var together sync.WaitGroup
		start := make(chan struct{})
		for range 8 {
			together.Go(func() {
				<-start
				c.add("redis", "SET", 1)
			})
		}
		close(start)
		together.Wait()
		require.Equal(t, map[label]int64{{"redis", "SET"}: 8}, c.all())
	}
}
