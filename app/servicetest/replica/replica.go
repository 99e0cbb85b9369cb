// Package replica runs what a test is about as processes of its own, because a goroutine can be neither killed nor
// paused as a machine does that to a service.
//
// A replica is this test binary, started again with settings in its environment. There, Serve builds a service from
// them, and the test calls the service's methods over the replica's standard input and output:
//
//	func TestMain(m *testing.M) {
//		replica.Serve(func(s settings, seen *replica.Telemetry) any { return newCounter(s, seen) })
//		m.Run()
//	}
//
//	p := replica.Start(t, patience, settings{Step: 2})
//	p.Call("Add", 20, &sum)
//	p.Kill()
//
// How it fails: a call that is not answered in time, or by a process that has died, ends the test and says which of
// them it was; Try returns that error instead. A replica that cannot be built panics on the test's standard error, and
// its first call fails. It ends with its test, and when the test's process dies, in whatever way, it goes too, even
// while it is paused.
package replica

import (
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

	"nervous/app/servicetest"
)

// variable is where a replica's settings are, in its environment.
const variable = "REPLICA_SETTINGS"

// Process is a replica, seen from the test.
type Process struct {
	t        testing.TB
	cmd      *exec.Cmd
	client   *rpc.Client
	patience time.Duration
}

// Start starts a replica with settings, which reach it as JSON. No answer of its may take longer than patience: a test
// that hangs should say where.
func Start(t testing.TB, patience time.Duration, settings any) *Process {
	t.Helper()
	encoded, err := json.Marshal(settings)
	require.NoError(t, err)
	p := &Process{t: t, cmd: exec.Command(os.Args[0]), patience: patience}
	p.cmd.Env = append(os.Environ(), variable+"="+string(encoded))
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	servicetest.Guard(t, p.cmd.Process.Pid)
	t.Cleanup(p.Kill)
	p.client = rpc.NewClient(pipes{out, in})
	return p
}

// Call calls a method of the replica's service, which must succeed.
func (p *Process) Call(method string, args, reply any) {
	p.t.Helper()
	require.NoError(p.t, p.Try(method, args, reply), method)
}

// Try calls a method of the replica's service, and may be called in any goroutine. What a replica that was killed had
// not answered ends in an error.
func (p *Process) Try(method string, args, reply any) error {
	return p.ask("Service."+method, args, reply)
}

func (p *Process) ask(method string, args, reply any) error {
	select {
	case call := <-p.client.Go(method, args, reply, make(chan *rpc.Call, 1)).Done:
		return call.Error
	case <-time.After(p.patience):
		return fmt.Errorf("no answer within %v", p.patience)
	}
}

// Signal sends a signal; that the replica is gone already is not an error.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); !errors.Is(err, os.ErrProcessDone) {
		require.NoError(p.t, err)
	}
}

// Kill is kill -9, and waits until the process is gone. To kill twice is allowed.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may be gone
	_ = p.cmd.Wait()         // how it ended is known
}

// Metric reads one of the replica's metrics, by attributes, whose values are joined by spaces: the sums of counters,
// the last values of gauges, the numbers of measured durations (histograms of float64) and the sums of measured sizes
// (histograms of int64). A metric of which nothing was recorded is empty.
func (p *Process) Metric(name string, by ...string) (values map[string]float64) {
	p.t.Helper()
	require.NoError(p.t, p.ask("Telemetry.Metric", Question{name, by}, &values), name)
	return values
}

// Spans lists those of a name that have ended, in that order; all if it is empty.
func (p *Process) Spans(name string) (spans []Span) {
	p.t.Helper()
	require.NoError(p.t, p.ask("Telemetry.Spans", name, &spans), name)
	return spans
}

// pipes makes a connection of two pipes.
type pipes struct {
	io.ReadCloser
	w io.WriteCloser
}

func (p pipes) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.ReadCloser.Close(), p.w.Close()) }
