package buffer_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
	"nervous/app/servicetest"
)

// process is a worker, seen from the test.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	rpc *rpc.Client
}

// startProcess starts a worker between the backend and the ledger, unless its settings say how else it reaches them.
func startProcess(t *testing.T, b backend, l *ledger, s settings) *process {
	t.Helper()
	if s.Network.Redis == nil {
		s.Network = b.network()
	}
	s.Database, s.Family = cmp.Or(s.Database, l.url), cmp.Or(s.Family, family)
	encoded, err := json.Marshal(s)
	require.NoError(t, err)
	p := &process{t: t, cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), settingsVariable+"="+string(encoded))
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	servicetest.Guard(t, p.cmd.Process.Pid)
	t.Cleanup(p.kill)
	p.rpc = rpc.NewClient(pipes{out, in})
	return p
}

// kill is kill -9, and waits until the process is gone. What it was asked ends in an error.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may be gone
	_ = p.cmd.Wait()         // how it ended is known
}

func (p *process) signal(s os.Signal) { require.NoError(p.t, p.cmd.Process.Signal(s)) }

func (p *process) call(method string, args, reply any) {
	p.t.Helper()
	require.NoError(p.t, p.try(method, args, reply), method)
}

func (p *process) try(method string, args, reply any) error {
	select {
	case call := <-p.rpc.Go("Worker."+method, args, reply, make(chan *rpc.Call, 1)).Done:
		return call.Error
	case <-time.After(patience):
		return fmt.Errorf("no answer within %v", patience)
	}
}

// reached returns once the worker is where it stops.
func (p *process) reached() {
	p.t.Helper()
	p.call("Reached", struct{}{}, &struct{}{})
}

func (p *process) goOn() {
	p.t.Helper()
	p.call("GoOn", struct{}{}, &struct{}{})
}

// add adds the payments from the first to the last, and returns the trace in which that was done.
func (p *process) add(name string, first, last int64) (producer string) {
	p.t.Helper()
	p.call("Add", Payments{name, first, last}, &producer)
	return producer
}

func (p *process) flush(name string) (done Flush) {
	p.t.Helper()
	p.call("Flush", name, &done)
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
		f.err = p.try("Flush", live, &f.Flush)
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
	p.call("Stats", live, &holds)
	return holds
}

func (p *process) spans() (spans []Span) {
	p.t.Helper()
	p.call("Spans", struct{}{}, &spans)
	return spans
}

// metric reads one of the process's metrics, by attributes.
func (p *process) metric(name string, by ...string) (values map[string]float64) {
	p.t.Helper()
	p.call("Metric", Question{name, by}, &values)
	return values
}

// flushes counts those of the process by outcome and origin.
func (p *process) flushes() map[string]float64 {
	p.t.Helper()
	return p.metric(buffer.MetricFlushes, "outcome", "origin")
}

// pipes makes a connection of two pipes.
type pipes struct {
	io.ReadCloser
	w io.WriteCloser
}

func (p pipes) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.ReadCloser.Close(), p.w.Close()) }
