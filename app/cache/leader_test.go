package cache_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

// lease is long enough that a busy machine does not lose one by chance, and short enough to wait for.
const lease = 2 * time.Second

func TestALeaderThatIsKilledIsSucceededOnce(t *testing.T) {
	onEachLink(t, func(t *testing.T, b backend) {
		held := settings{Held: true, Lease: lease, LoadTimeout: time.Minute}
		leader := startProcess(t, b, held)
		waiters := []*process{startProcess(t, b, held), startProcess(t, b, held)}

		leader.ask(Ask{"k", 1})
		leader.started()
		var waiting []<-chan []Got
		for _, w := range waiters {
			waiting = append(waiting, w.ask(Ask{"k", 20}))
		}
		for _, w := range waiters {
			w.waiters(20)
		}
		b.scriptsRun(t, "k", 3) // and their processes have asked for the lease
		leader.Kill()
		killed := time.Now()

		begun := make(chan *process, len(waiters))
		for _, w := range waiters {
			go func() {
				if w.Try("Started", struct{}{}, &struct{}{}) == nil {
					begun <- w
				}
			}()
		}
		successor := <-begun
		took := time.Since(killed)
		t.Logf("taken over after %v, the lease being %v", took, lease)
		successor.release(Load{Value: "the successor's"})
		for _, answers := range waiting {
			for _, got := range <-answers {
				require.Empty(t, got.Err)
				require.Equal(t, "the successor's", got.Value)
			}
		}
		require.Equal(t, 1, runs(waiters...), "one waiter takes over, and one alone")
		require.Less(t, took, lease+slack)
	})
}

func TestALeaderThatTakesLongKeepsItsLease(t *testing.T) {
	onEachLink(t, func(t *testing.T, b backend) {
		const short = time.Second
		held := settings{Held: true, Lease: short, LoadTimeout: time.Minute}
		leader, waiter := startProcess(t, b, held), startProcess(t, b, held)
		led := leader.ask(Ask{"k", 1})
		leader.started()
		waiting := waiter.ask(Ask{"k", 1})
		time.Sleep(3 * short) // the work takes that long
		leader.release(Load{Value: "v"})
		require.Equal(t, []any{"v", cache.ResultMiss}, valueAndResult(<-led))
		require.Equal(t, []any{"v", cache.ResultWait}, valueAndResult(<-waiting))
		require.Equal(t, 1, runs(leader, waiter))
	})
}

func TestALeaderThatPausesBeyondItsLeaseCannotUndoANewerValue(t *testing.T) {
	onEachLink(t, func(t *testing.T, b backend) {
		held := settings{Held: true, Lease: 500 * time.Millisecond, LoadTimeout: time.Minute}
		paused, other := startProcess(t, b, held), startProcess(t, b, held)

		late := paused.ask(Ask{"k", 1})
		paused.started()
		paused.Signal(syscall.SIGSTOP)
		newer := other.ask(Ask{"k", 1})
		other.started() // once the lease has expired
		other.release(Load{Value: "newer"})
		require.Equal(t, []any{"newer", cache.ResultMiss}, valueAndResult(<-newer))

		paused.Signal(syscall.SIGCONT)
		paused.release(Load{Value: "older"})
		require.Equal(t, "older", (<-late)[0].Value, "its caller asked before the newer fill began")
		require.Equal(t, []any{"newer", cache.ResultHit}, valueAndResult([]Got{other.get("k")}))
	})
}

func valueAndResult(got []Got) []any {
	if len(got) != 1 {
		return []any{fmt.Sprint(got)}
	}
	return []any{got[0].Value, got[0].Result}
}

// slack is what a busy machine may add to a promised time.
const slack = time.Second

// scriptsRun returns once the key's node has run at least so many scripts.
func (b backend) scriptsRun(t *testing.T, key string, times int) {
	t.Helper()
	node := b.at(t, key)
	eventually(t, func() bool { return calls(t, node, "evalsha") >= times })
}

// calls is how often a server was asked to run a command.
func calls(t *testing.T, server *redis.Client, command string) (n int) {
	t.Helper()
	stats, err := server.InfoMap(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	_, _ = fmt.Sscanf(stats["Commandstats"]["cmdstat_"+command], "calls=%d,", &n) // not listed is never called: 0
	return n
}
