package buffer_test

import (
	"cmp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
	"nervous/app/servicetest/replica"
)

// process is a worker, seen from the test.
type process struct {
	*replica.Process
	t *testing.T
}

// startProcess starts a worker between the backend and the ledger, unless its settings say how else it reaches them.
func startProcess(t *testing.T, b backend, l *ledger, s settings) *process {
	t.Helper()
	if s.Network.Redis == nil {
		s.Network = b.network()
	}
	s.Database, s.Family = cmp.Or(s.Database, l.url), cmp.Or(s.Family, family)
	return &process{replica.Start(t, patience, s), t}
}

// reached returns once the worker is where it stops.
func (p *process) reached() {
	p.t.Helper()
	p.Call("Reached", struct{}{}, &struct{}{})
}

func (p *process) goOn() {
	p.t.Helper()
	p.Call("GoOn", struct{}{}, &struct{}{})
}

// add adds the payments from the first to the last, and returns the span in which that was done.
func (p *process) add(name string, first, last int64) (producer string) {
	p.t.Helper()
	p.Call("Add", Payments{name, first, last}, &producer)
	return producer
}

func (p *process) flush(name string) (done Flush) {
	p.t.Helper()
	p.Call("Flush", name, &done)
	return done
}

// flushed is the end of a flush.
type flushed struct {
	Flush
	err error
}

// beginFlush flushes the live buffer in the background.
func (p *process) beginFlush() chan flushed {
	ended := make(chan flushed, 1)
	go func() {
		var f flushed
		f.err = p.Try("Flush", live, &f.Flush)
		ended <- f
	}()
	return ended
}

// flushUntil begins flushes until a reply is lost, and returns the one that lost it: on a busy machine, one may fail
// before it comes to that.
func (p *process) flushUntil(lost <-chan struct{}) <-chan flushed {
	p.t.Helper()
	tooLong := time.After(patience)
	for {
		flush := p.beginFlush()
		select {
		case <-lost:
			return flush
		case f := <-flush:
			select {
			case <-lost:
				flush <- f
				return flush
			default:
			}
		case <-tooLong:
			require.Fail(p.t, "no reply was lost")
		}
	}
}

// stats says what the live buffer holds.
func (p *process) stats() (holds buffer.Stats) {
	p.t.Helper()
	p.Call("Stats", live, &holds)
	return holds
}

// flushes counts those of the process by outcome and origin.
func (p *process) flushes() map[string]float64 {
	p.t.Helper()
	return p.Metric(buffer.MetricFlushes, "outcome", "origin")
}
