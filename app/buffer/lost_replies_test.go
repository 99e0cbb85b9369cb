package buffer_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
	"nervous/app/servicetest"
)

// Redis did it, and the worker did not hear. One Redis's client reports that; a Cluster's repeats what it lost.
func TestAReplyThatIsLost(t *testing.T) {
	const half = payments / 2
	for after, work := range map[string]func(t *testing.T, b backend, l *ledger, far *process, lost <-chan struct{}){
		"buffer.add": func(_ *testing.T, _ backend, _ *ledger, far *process, lost <-chan struct{}) {
			if far.Try("Add", Payments{live, 1, half}, new(string)) != nil {
				far.add(live, 1, half) // as its caller would
			}
			<-lost
		},
		"buffer.cut": func(t *testing.T, b backend, l *ledger, far *process, lost <-chan struct{}) {
			far.add(live, 1, half)
			flush := far.flushUntil(lost)
			startProcess(t, b, l, settings{}).add(live, half+1, payments) // before it is repeated, if it is
			<-flush
		},
		"buffer.claim": func(t *testing.T, b backend, l *ledger, far *process, lost <-chan struct{}) {
			b.abandon(t, l, settings{Lease: lease}, half)
			far.flushUntil(lost)
		},
		"buffer.acknowledge": func(t *testing.T, _ backend, _ *ledger, far *process, lost <-chan struct{}) {
			far.add(live, 1, half)
			require.NoError(t, (<-far.flushUntil(lost)).err, "what cannot be acknowledged is not undone")
		},
	} {
		t.Run("after "+after, func(t *testing.T) {
			onPlainBackends(t, func(t *testing.T, b backend) {
				l := newLedger(t, payments)
				through, proxies := b.proxies(t)
				through.Backoff = 500 * time.Millisecond // time for others to do something before a repetition
				far := startProcess(t, b, l, settings{Network: through, Lease: lease})
				lost := proxies[b.owner(t, member)].LoseReply(buffer.Scripts()[after].Hash())
				work(t, b, l, far, lost)
				near := startProcess(t, b, l, settings{
					Lease: lease, FlushAge: often, Run: true, Continuous: []string{live},
				})
				near.add(live, half+1, payments)
				l.settled(t, 1, payments)
				b.empty(t, member)
				l.holds(t, 1, payments)
			})
		})
	}
}

// A client repeats a cut so late that another has flushed its generation meanwhile. What is open by then must not get
// the name of a generation that Postgres has.
func TestACutThatIsRepeatedLate(t *testing.T) {
	onPlainBackends(t, func(t *testing.T, b backend) {
		const half, short = payments / 2, 2 * time.Second
		l := newLedger(t, payments)
		through, proxies := b.proxies(t)
		through.Backoff = 3 * short
		far := startProcess(t, b, l, settings{Network: through, Lease: short})
		far.add(live, 1, half)
		lost := proxies[b.owner(t, member)].LoseReply(buffer.Scripts()["buffer.cut"].Hash())
		flush := far.flushUntil(lost)
		near := startProcess(t, b, l, settings{Lease: short, FlushAge: often, Run: true})
		b.empty(t, member)
		near.add(live, half+1, payments)
		require.Error(t, (<-flush).err)
		near.flush(live)
		l.holds(t, 1, payments)
	})
}

// Postgres has committed, and the flusher did not hear: it fails, and finds the record when it tries again.
func TestACommitWhoseReplyIsLost(t *testing.T) {
	onPlainBackends(t, func(t *testing.T, b backend) {
		l := newLedger(t, payments)
		database, err := url.Parse(l.url)
		require.NoError(t, err)
		proxy := servicetest.NewProxy(t, database.Host)
		database.Host = proxy.Addr()
		far := startProcess(t, b, l, settings{Database: database.String(), Lease: lease})
		far.add(live, 1, payments)
		lost := proxy.LoseReply("commit")
		require.Error(t, (<-far.flushUntil(lost)).err)
		require.Equal(t, buffer.Flushed{Replayed: 1, Items: payments}, far.flush(live).Flushed)
		require.Equal(t, map[string]float64{"failed cut": 1, "replayed recovered": 1}, far.flushes())
		require.Equal(t, 1, l.generations(t))
		require.Empty(t, b.left(t))
		l.holds(t, 1, payments)
	})
}
