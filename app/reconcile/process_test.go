package reconcile_test

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

	"nervous/app/reconcile"
	"nervous/app/servicetest"
)

// process is a replica, seen from the test.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	rpc *rpc.Client
}

// startProcess starts a replica between the stores of that network.
func startProcess(t *testing.T, n network, o reconcile.Options) *process {
	t.Helper()
	o.ByItself = cmp.Or(o.ByItself, reconcile.Buffered) // there is no way to write down none
	encoded, err := json.Marshal(settings{n, o})
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

// start starts a run, which this process then takes, and fails if another one goes on.
func (p *process) start(by reconcile.Strategy) Started {
	p.t.Helper()
	var started Started
	p.call("Start", Order{Strategy: by}, &started)
	require.Zero(p.t, started.Running)
	return started
}

func (p *process) settled(payment int64) (event Event) {
	p.t.Helper()
	p.call("Settled", payment, &event)
	return event
}

// spans lists those of a name; all if it is empty.
func (p *process) spans(name string) (spans []Span) {
	p.t.Helper()
	var all []Span
	p.call("Spans", struct{}{}, &all)
	for _, s := range all {
		if name == "" || s.Name == name {
			spans = append(spans, s)
		}
	}
	return spans
}

// metric reads one of the process's metrics, by attributes.
func (p *process) metric(name string, by ...string) (values map[string]float64) {
	p.t.Helper()
	p.call("Metric", Question{name, by}, &values)
	return values
}

// pipes makes a connection of two pipes.
type pipes struct {
	io.ReadCloser
	w io.WriteCloser
}

func (p pipes) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.ReadCloser.Close(), p.w.Close()) }

// patience bounds every wait: a test that hangs should say where.
const patience = 2 * time.Minute

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, patience, 5*time.Millisecond)
}
