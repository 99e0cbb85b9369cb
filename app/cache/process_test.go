package cache_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest"
)

// process is a replica, seen from the test.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	rpc *rpc.Client
}

var clients atomic.Int64

// startProcess starts a replica over the given Redis.
func startProcess(t *testing.T, b backend, s settings) *process {
	t.Helper()
	s.Redis, s.Cluster, s.Client = b.addresses(), b.cluster != nil, fmt.Sprint("client-", clients.Add(1))
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
	eventually(t, func() bool { return b.listens(t, s.Client) }) // from here on it hears what is said
	return p
}

// kill is kill -9, and waits until the process is gone. What it was asked ends in an error.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may be gone
	_ = p.cmd.Wait()         // how it ended is known
}

func (p *process) signal(s os.Signal) { require.NoError(p.t, p.cmd.Process.Signal(s)) }

// patience bounds every wait for a process: a test that hangs should say where.
const patience = 30 * time.Second

func (p *process) call(method string, args, reply any) {
	p.t.Helper()
	require.NoError(p.t, p.try(method, args, reply), method)
}

func (p *process) try(method string, args, reply any) error {
	select {
	case call := <-p.rpc.Go("Replica."+method, args, reply, make(chan *rpc.Call, 1)).Done:
		return call.Error
	case <-time.After(patience):
		return fmt.Errorf("no answer within %v", patience)
	}
}

// get asks for the key once.
func (p *process) get(key string) Got {
	p.t.Helper()
	got := <-p.ask(Ask{Key: key, Callers: 1})
	require.Len(p.t, got, 1, "the process did not answer")
	return got[0]
}

// ask asks in the background. What the process did not answer, because it was killed, is missing.
func (p *process) ask(a Ask) <-chan []Got {
	answers := make(chan []Got, 1)
	go func() {
		var got []Got
		if p.try("Get", a, &got) != nil {
			got = nil
		}
		answers <- got
	}()
	return answers
}

//nolint:unparam // that it is always the same key is the tests' business
func (p *process) delete(key string) {
	p.t.Helper()
	p.call("Delete", key, &struct{}{})
}

// started returns once a loader of this process has begun that no earlier call has been told of.
func (p *process) started() {
	p.t.Helper()
	p.call("Started", struct{}{}, &struct{}{})
}

// release lets one held loader end.
func (p *process) release(l Load) {
	p.t.Helper()
	p.call("Release", l, &struct{}{})
}

// fills are the runs of this process's loader, those that go on included.
func (p *process) fills() (fills []Fill) {
	p.t.Helper()
	p.call("Fills", struct{}{}, &fills)
	return fills
}

// metric reads one of the process's metrics, by an attribute.
func (p *process) metric(name, by string) (counts map[string]int64) {
	p.t.Helper()
	p.call("Metric", Question{name, by}, &counts)
	return counts
}

// waited counts the waits for another's fill, by what ended them: push, poll, flight or timeout.
func (p *process) waited() map[string]int64 {
	p.t.Helper()
	return p.metric(cache.MetricLeaseWait, "result")
}

// waiters returns once so many requests of this process wait for another's fill.
func (p *process) waiters(n int64) {
	p.t.Helper()
	eventually(p.t, func() bool { return waiting(p) == n })
}

// waiting counts the requests that wait for another's fill.
func waiting(processes ...*process) (n int64) {
	for _, p := range processes {
		for _, requests := range p.metric(cache.MetricWaiters, "holder") {
			n += requests
		}
	}
	return n
}

// filling says whether a run of this process's loader goes on.
func (p *process) filling() bool {
	p.t.Helper()
	return slices.ContainsFunc(p.fills(), func(f Fill) bool { return f.Ended == 0 })
}

// runs counts the fills of several processes.
func runs(processes ...*process) (n int) {
	for _, p := range processes {
		n += len(p.fills())
	}
	return n
}

// pipes makes a connection of two pipes.
type pipes struct {
	io.ReadCloser
	w io.WriteCloser
}

func (p pipes) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.ReadCloser.Close(), p.w.Close()) }
