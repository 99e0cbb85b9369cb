package cache_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

// A failover may lead to a server whose clock is behind. What its predecessor stamped is in its future then.
func TestCache_stampsFromTheFuture(t *testing.T) {
	const ahead = 10 * time.Minute
	tombstone := func(at time.Time) []byte {
		return binary.BigEndian.AppendUint64([]byte{1, 'T'}, uint64(at.UnixMicro()))
	}
	t.Run("a tombstone does not refuse the holder of a lease", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			c := run(t, b.client(t), cache.Options[string]{Load: returns("v")})
			require.NoError(t, b.at(t, "k").Set(t.Context(), c.ValueKey("k"), tombstone(time.Now().Add(ahead)), time.Hour).Err())
			requireGet(t, c, "k", "v", cache.ResultMiss)
			requireGet(t, c, "k", "v", cache.ResultHit)
		})
	})

	t.Run("a value does not refuse the holder of a lease, nor answer Refresh", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			c := run(t, b.client(t), cache.Options[string]{Load: counting(), TTL: time.Hour, StaleFor: time.Hour})
			requireGet(t, c, "k", "1", cache.ResultMiss)
			b.age(t, "k", -ahead)
			requireGet(t, c, "k", "1", cache.ResultHit)
			value, info, err := c.Refresh(t.Context(), "k")
			require.NoError(t, err)
			require.Equal(t, []any{"2", true}, []any{value, info.Stored})
			requireGet(t, c, "k", "2", cache.ResultHit)
			require.NoError(t, c.Delete(t.Context(), "k"))
			requireGet(t, c, "k", "3", cache.ResultMiss)
		})
	})

	t.Run("a deletion under a stamp from the future refuses fills begun before it", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			held := settings{Held: true, Lease: time.Minute}
			p := startProcess(t, b, held)
			before := p.ask(Ask{"k", 1})
			p.started()
			p.delete("k")
			name := cache.ValueKey("k")
			require.NoError(t, b.at(t, "k").Set(t.Context(), name, tombstone(time.Now().Add(ahead)), time.Hour).Err())
			p.release(Load{Value: "deleted"})
			require.False(t, (<-before)[0].Stored)
			require.EqualValues(t, tombstoneSize, b.at(t, "k").StrLen(t.Context(), name).Val())
		})
	})

	// The fill began by the old server's clock, and its lease was lost with that server.
	t.Run("a fill that has lost its lease does not commit", func(t *testing.T) {
		onEachBackend(t, func(t *testing.T, b backend) {
			node := b.at(t, "k")
			commit := func(created time.Time, leased bool) any {
				value, lease := cache.ValueKey("k"), cache.LeaseKey("k")
				require.NoError(t, node.Del(t.Context(), value, lease).Err())
				if leased {
					require.NoError(t, node.Set(t.Context(), lease, "mine", time.Minute).Err())
				}
				reply, err := cache.Scripts()["cache.commit"].Run(t.Context(), node, []string{value, lease}, "channel", "", "",
					"mine", "0123456789abcdef", created.UnixMicro(), 60_000, "a value", 60_000).Slice()
				require.NoError(t, err)
				return reply[0]
			}
			now := node.Time(t.Context()).Val()
			require.Equal(t, "lost", commit(now.Add(ahead), false))
			require.Equal(t, "committed", commit(now.Add(ahead), true))
			require.Equal(t, "committed", commit(now.Add(-time.Second), false))
			require.Equal(t, "lost", commit(now.Add(-time.Hour), true), "it outlives what Redis remembers")
		})
	})
}
