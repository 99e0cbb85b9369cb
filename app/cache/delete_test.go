package cache_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

func TestADeleteDuringAFillKeepsTheOldValueOut(t *testing.T) {
	onEachLink(t, func(t *testing.T, b backend) {
		held := settings{Held: true, Lease: lease, LoadTimeout: time.Minute}
		filling, other := startProcess(t, b, held), startProcess(t, b, held)
		before := filling.ask(Ask{"k", 1})
		filling.started()
		other.delete("k")
		// The lease is free again: who comes now need not wait for a fill that can no longer commit.
		after := other.ask(Ask{"k", 1})
		other.started()

		filling.release(Load{Value: "deleted"})
		require.Equal(t, "deleted", (<-before)[0].Value, "its caller asked before the deletion")
		require.Zero(t, b.at(t, "k").StrLen(t.Context(), cache.ValueKey("k")).Val()-tombstoneSize, "nothing was stored")
		other.release(Load{Value: "new"})
		require.Equal(t, []any{"new", cache.ResultMiss}, valueAndResult(<-after))
		require.Equal(t, []any{"new", cache.ResultHit}, valueAndResult([]Got{filling.get("k")}))
	})
}

const tombstoneSize = 10

// A request boards its process's flight. If that took off before a deletion elsewhere, and the request asked after it,
// what the flight brings is not for it; nor does it help to have been told, because messages get lost.
func TestWhoAsksAfterADeleteElsewhereDoesNotGetAValueFromBefore(t *testing.T) {
	onEachLink(t, func(t *testing.T, b backend) {
		held := settings{Held: true, Lease: lease, LoadTimeout: time.Minute}
		filling := startProcess(t, b, held)
		before := filling.ask(Ask{"k", 1})
		filling.started()
		b.deleteUnheard(t, "k")
		after := filling.ask(Ask{"k", 10})
		filling.waiters(10)

		filling.release(Load{Value: "deleted"})
		require.Equal(t, "deleted", (<-before)[0].Value)
		filling.started()
		filling.release(Load{Value: "new"})
		for _, got := range <-after {
			require.Equal(t, "new", got.Value)
		}
		require.Len(t, filling.fills(), 2)
	})
}

// A fill may take longer than the value lives that was stored while it ran. It is the older one all the same.
func TestAFillThatOutlivesItsSuccessorsValueCannotCommit(t *testing.T) {
	onEachLink(t, func(t *testing.T, b backend) {
		held := settings{Held: true, Lease: lease, LoadTimeout: time.Minute, TTL: time.Millisecond}
		slow, quick := startProcess(t, b, held), startProcess(t, b, held)
		old := slow.ask(Ask{"k", 1})
		slow.started()
		quick.delete("k")
		new := quick.ask(Ask{"k", 1})
		quick.started()
		quick.release(Load{Value: "new"})
		got := (<-new)[0]
		require.True(t, got.Stored)
		<-time.After(2 * time.Duration(got.Ended-got.Began)) // by now it has expired
		slow.release(Load{Value: "deleted"})
		require.False(t, (<-old)[0].Stored)
	})
}

// Redis hangs with a commit in its socket until the tombstone that should have stopped it has expired.
func TestACommitThatArrivesAfterItsTombstoneIsRefused(t *testing.T) {
	onEachLink(t, func(t *testing.T, b backend) {
		held := settings{
			Held: true, Lease: 100 * time.Millisecond, LoadTimeout: time.Second, RedisTimeout: redisTimeout,
		}
		filling := startProcess(t, b, held)
		node := b.at(t, "k")
		late := filling.ask(Ask{"k", 1})
		filling.started()
		filling.delete("k")
		remains := node.PTTL(t.Context(), cache.ValueKey("k")).Val()

		require.NoError(t, b.owner(t, "k").Pause())
		filling.release(Load{Value: "deleted"})
		require.False(t, (<-late)[0].Stored)
		<-time.After(remains) // the fault: it hangs for this long
		require.NoError(t, b.owner(t, "k").Resume())
		// What is in its sockets already it does before it hears a new client.
		require.Zero(t, b.at(t, "k").Exists(t.Context(), cache.ValueKey("k")).Val())
	})
}

// deleteUnheard deletes as Delete does, except that the message of it is lost.
func (b backend) deleteUnheard(t *testing.T, key string) {
	t.Helper()
	keys := []string{cache.ValueKey(key), cache.LeaseKey(key)}
	stays := time.Minute.Milliseconds()
	delete := cache.Scripts()["cache.delete"]
	require.NoError(t, delete.Run(t.Context(), b.at(t, key), keys, "another channel", "", "", stays).Err())
}
