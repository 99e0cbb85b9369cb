package cache_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

// Whatever happens to Redis while a value is computed: who waits for it gets it or an equal one, nobody waits for much
// longer than the fill takes, and afterwards memory is shared again.
func TestRedisFailsDuringAFill(t *testing.T) {
	for _, fault := range []struct {
		name   string
		inject func(t *testing.T, b backend)
		heal   func(t *testing.T, b backend)
		// fills is how many there may be at most, over both processes, until Redis is well again.
		fills int
		// stored says whether Redis keeps what the fill brought.
		stored bool
	}{
		{
			name:   "killed",
			inject: func(t *testing.T, b backend) { require.NoError(t, b.owner(t, "k").Kill()) },
			heal:   func(t *testing.T, b backend) { require.NoError(t, b.owner(t, "k").Restart(t.Context())) },
			fills:  2, // each process for itself
		},
		{
			name:   "restarted",
			inject: func(t *testing.T, b backend) { require.NoError(t, b.owner(t, "k").Restart(t.Context())) },
			fills:  2, // the lease is gone with the rest
			stored: true,
		},
		{
			name:   "hung",
			inject: func(t *testing.T, b backend) { require.NoError(t, b.owner(t, "k").Pause()) },
			heal:   func(t *testing.T, b backend) { require.NoError(t, b.owner(t, "k").Resume()) },
			fills:  2,
		},
		{
			name:   "flushed",
			inject: func(t *testing.T, b backend) { require.NoError(t, b.at(t, "k").FlushAll(t.Context()).Err()) },
			fills:  2,
			stored: true, // whoever commits first: nobody else holds the lease, and nothing newer is there
		},
		{
			name: "full",
			inject: func(t *testing.T, b backend) {
				require.NoError(t, b.at(t, "k").ConfigSet(t.Context(), "maxmemory", "1").Err())
			},
			heal: func(t *testing.T, b backend) {
				require.NoError(t, b.at(t, "k").ConfigSet(t.Context(), "maxmemory", "0").Err())
			},
			fills: 2,
		},
	} {
		t.Run(fault.name, func(t *testing.T) {
			onEachLink(t, func(t *testing.T, b backend) {
				held := settings{Held: true, Lease: lease, LoadTimeout: time.Minute, RedisTimeout: redisTimeout}
				leader, waiter := startProcess(t, b, held), startProcess(t, b, held)
				led := leader.ask(Ask{"k", 20})
				leader.started()
				leader.waiters(19)
				waiting := waiter.ask(Ask{"k", 20})
				waiter.waiters(20)

				fault.inject(t, b)
				leader.release(Load{Value: "v"})
				waiter.release(Load{Value: "v"}) // should it have to compute for itself
				for _, answers := range []<-chan []Got{led, waiting} {
					got := <-answers
					require.Len(t, got, 20)
					for _, g := range got {
						require.Empty(t, g.Err)
						require.Equal(t, "v", g.Value)
						if !fault.stored {
							require.False(t, g.Stored)
						}
					}
				}
				require.LessOrEqual(t, runs(leader, waiter), fault.fills)

				if fault.heal != nil {
					fault.heal(t, b)
				}
				b.await(t)
				eventually(t, func() bool { // the breaker may be open for another second
					leader.release(Load{Value: "again"})
					return leader.get("k").Result == cache.ResultHit
				})
				eventually(t, func() bool { return waiter.get("k").Result == cache.ResultHit })
			})
		})
	}
}

// Slow is not down: each command takes a tenth of its budget, and everything still works as one.
func TestASlowRedisIsStillShared(t *testing.T) {
	onEachLink(t, func(t *testing.T, b backend) {
		const budget, callers = 2 * time.Second, 20
		through, proxies := b.proxies(t)
		slow := settings{Held: true, Through: through, Lease: lease, RedisTimeout: budget}
		leader, waiter := startProcess(t, b, slow), startProcess(t, b, slow)
		for _, proxy := range proxies {
			proxy.Delay(budget / 10)
		}
		led := leader.ask(Ask{"k", callers})
		leader.started()
		waiting := waiter.ask(Ask{"k", callers})
		waiter.waiters(callers)
		leader.release(Load{Value: "v"})
		for _, answers := range []<-chan []Got{led, waiting} {
			for _, got := range <-answers {
				require.Equal(t, "v", got.Value)
			}
		}
		require.Equal(t, 1, runs(leader, waiter))
	})
}

// A replica that is stopped while Redis goes on must not take its old picture of the world for the present one.
func TestAReplicaThatWasPausedSeesWhatHappenedMeanwhile(t *testing.T) {
	onEachLink(t, func(t *testing.T, b backend) {
		held := settings{Held: true, LocalTTL: time.Hour, LoadTimeout: time.Minute}
		paused, other := startProcess(t, b, held), startProcess(t, b, held)
		first := paused.ask(Ask{"k", 1})
		paused.started()
		paused.release(Load{Value: "old"})
		<-first
		require.Equal(t, "old", paused.get("k").Value) // and keeps a copy
		paused.Signal(syscall.SIGSTOP)
		other.delete("k")
		paused.Signal(syscall.SIGCONT)
		paused.release(Load{Value: "new"})
		eventually(t, func() bool { return paused.get("k").Value == "new" })
	})
}
