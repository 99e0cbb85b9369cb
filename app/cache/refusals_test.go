package cache_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

func TestThatThereIsNoValueIsRememberedForItsOwnTime(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		s := settings{Held: true, NegativeTTL: time.Second, StaleFor: time.Hour}
		one, other := startProcess(t, b, s), startProcess(t, b, s)
		one.release(Load{Absent: true})
		require.Contains(t, one.get("k").Err, cache.ErrNotFound.Error())
		remembered := other.get("k")
		require.Contains(t, remembered.Err, cache.ErrNotFound.Error())
		require.Equal(t, cache.ResultHit, remembered.Result)
		require.Equal(t, 1, runs(one, other))

		other.release(Load{Value: "now there is"})
		eventually(t, func() bool { return other.get("k").Result == cache.ResultMiss }) // never stale
		require.Equal(t, "now there is", one.get("k").Value)
	})
}

func TestAValueThatIsTooLargeIsRefusedAndNotTriedAgainAtOnce(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		s := settings{Held: true, MaxValueSize: 1000, Cooldown: time.Minute}
		one, other := startProcess(t, b, s), startProcess(t, b, s)
		one.release(Load{Value: strings.Repeat("x", 1000)}) // with its header it is more
		require.Contains(t, one.get("k").Err, cache.ErrValueTooLarge.Error())
		require.Contains(t, other.get("k").Err, cache.ErrCooldown.Error())
		require.Zero(t, b.at(t, "k").Exists(t.Context(), cache.ValueKey("k")).Val())
		require.Equal(t, 1, runs(one, other))
	})
}

func TestALoaderThatPanicsInOneProcessHoldsUpNobodyElsewhere(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		s := settings{Held: true, Cooldown: time.Minute}
		one, other := startProcess(t, b, s), startProcess(t, b, s)
		panicking := one.ask(Ask{"k", 1})
		one.started()
		waiting := other.ask(Ask{"k", 1})
		other.waiters(1)
		one.release(Load{Panic: "boom"})
		require.Contains(t, (<-panicking)[0].Err, "boom")
		require.Contains(t, (<-waiting)[0].Err, cache.ErrCooldown.Error())
		require.Equal(t, 1, runs(one, other))
	})
}
