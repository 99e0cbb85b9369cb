package buffer_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
)

const payments = 1_000

// A flusher stands still inside its transaction until its lease has expired, and another begins with the same
// generation: it must wait for what becomes of the first, and then do nothing.
func TestTwoFlushersInTheirTransactions(t *testing.T) {
	onEveryBackend(t, func(t *testing.T, b backend) {
		l := newLedger(t, payments)
		first := startProcess(t, b, l, settings{Lease: lease, StopAt: "in transaction"})
		first.add(live, 1, payments)
		flush := first.beginFlush()
		first.reached()
		first.Signal(syscall.SIGSTOP)
		b.unleased(t, member)

		second := startProcess(t, b, l, settings{Lease: lease, FlushAge: often, Run: true})
		l.blocked(t)
		require.Empty(t, second.flushes(), "it waits for the first")
		first.Signal(syscall.SIGCONT)
		first.goOn()

		f := <-flush
		require.NoError(t, f.err)
		require.Equal(t, buffer.Flushed{Generations: 1, Items: payments, Applied: agree(1, payments)}, f.Flushed)
		eventually(t, func() bool { return len(second.flushes()) == 1 })
		require.Equal(t, map[string]float64{"replayed recovered": 1}, second.flushes())
		require.Equal(t, 1, l.generations(t))
		b.empty(t, member)
		l.holds(t, 1, payments)
	})
}

// A flusher stands still before it has read anything, and finds its generation gone: another has done its work, which
// is what its caller wanted.
func TestAFlusherThatWasPausedWhileAnotherDidItsWork(t *testing.T) {
	onEveryBackend(t, func(t *testing.T, b backend) {
		l := newLedger(t, payments)
		first := startProcess(t, b, l, settings{Lease: lease, StopAt: "cut"})
		first.add(live, 1, payments)
		flush := first.beginFlush()
		first.reached()
		first.Signal(syscall.SIGSTOP)

		second := startProcess(t, b, l, settings{Lease: lease, FlushAge: often, Run: true})
		b.empty(t, member)
		eventually(t, func() bool { return len(second.flushes()) == 1 })
		require.Equal(t, map[string]float64{"committed recovered": 1}, second.flushes())
		first.Signal(syscall.SIGCONT)
		first.goOn()

		f := <-flush
		require.NoError(t, f.err)
		require.Equal(t, buffer.Flushed{Replayed: 1, Items: payments}, f.Flushed)
		require.Equal(t, 1, l.generations(t))
		l.holds(t, 1, payments)
	})
}

func TestAFlushThatTakesLongKeepsItsLease(t *testing.T) {
	onEveryBackend(t, func(t *testing.T, b backend) {
		l := newLedger(t, payments)
		slow := startProcess(t, b, l, settings{Lease: lease, StopAt: "in transaction"})
		slow.add(live, 1, payments)
		flush := slow.beginFlush()
		slow.reached()
		other := startProcess(t, b, l, settings{Lease: lease, FlushAge: often, Run: true})
		eventually(t, func() bool { return other.Metric(buffer.MetricGenerations, "buffer")[family] == 1 })
		<-time.After(2 * lease) // the work takes that long
		slow.goOn()
		require.NoError(t, (<-flush).err)
		require.Empty(t, other.flushes())
		l.holds(t, 1, payments)
	})
}
