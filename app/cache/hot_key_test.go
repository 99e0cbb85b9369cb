package cache_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

// A value that takes 300 ms to compute and lives for a second is renewed well before it ends, so that nobody waits.
func TestNobodyWaitsWhenAHotKeyExpires(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		hot := settings{TTL: time.Second, LoadTime: 300 * time.Millisecond}
		one, other := startProcess(t, b, hot), startProcess(t, b, hot)
		require.Equal(t, cache.ResultMiss, one.get("hot").Result)
		const expiries = 10
		for runs(one, other) <= expiries {
			for _, answers := range []<-chan []Got{one.ask(Ask{"hot", 5}), other.ask(Ask{"hot", 5})} {
				for _, got := range <-answers {
					require.Equal(t, cache.ResultHit, got.Result)
				}
			}
		}
	})
}
