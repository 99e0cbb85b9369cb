package cache_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

func TestADeletionReachesTheLocalCopiesOfOtherReplicas(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		s := settings{LocalTTL: time.Hour, TTL: time.Hour}
		one, other := startProcess(t, b, s), startProcess(t, b, s)
		old := one.get("k").Value
		require.Equal(t, old, other.get("k").Value)
		node := b.at(t, "k")
		eventually(t, func() bool { // both keep copies and ask nobody, once the message of the fill has come and gone
			reads := calls(t, node, "get")
			require.Equal(t, old, one.get("k").Value)
			require.Equal(t, old, other.get("k").Value)
			return calls(t, node, "get") == reads
		})

		one.delete("k")
		require.NotEqual(t, old, one.get("k").Value, "who deletes need not wait for the message")
		eventually(t, func() bool { return other.get("k").Value != old })
		require.Equal(t, one.get("k").Value, other.get("k").Value)
	})
}

// A copy is for a moment while Redis is there, and for as long as its value lives while it is not.
func TestLocalCopiesAreServedWhileRedisIsAway(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		filler := startProcess(t, b, settings{Held: true, TTL: time.Hour})
		p := startProcess(t, b, settings{LocalTTL: time.Millisecond, TTL: time.Hour})
		// A message that a value is new drops the copy of the old one. Whoever has heard it keeps what it reads next.
		key := b.pushed(t, filler, p)
		require.Equal(t, "v", p.get(key).Value) // read, and so copied
		require.NoError(t, b.owner(t, key).Kill())
		for range 10 { // also when the breaker has opened
			require.Equal(t, []any{"v", cache.ResultStale}, valueAndResult([]Got{p.get(key)}))
		}
		require.Empty(t, p.fills())
	})
}
