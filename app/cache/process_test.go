package cache_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
	"nervous/app/servicetest/replica"
)

// process is a replica, seen from the test.
type process struct {
	*replica.Process
	t *testing.T
}

var clients atomic.Int64

// startProcess starts a replica over the given Redis.
func startProcess(t *testing.T, b backend, s settings) *process {
	t.Helper()
	s.Redis, s.Cluster, s.Client = b.addresses(), b.cluster != nil, fmt.Sprint("client-", clients.Add(1))
	b.reach(&s)
	p := &process{replica.Start(t, patience, s), t}
	eventually(t, func() bool { return b.listens(t, s.Client) }) // from here on it hears what is said
	return p
}

// patience bounds every wait for a process: a test that hangs should say where.
const patience = 30 * time.Second

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
		if p.Try("Get", a, &got) != nil {
			got = nil
		}
		answers <- got
	}()
	return answers
}

//nolint:unparam // that it is always the same key is the tests' business
func (p *process) delete(key string) {
	p.t.Helper()
	p.Call("Delete", key, &struct{}{})
}

// started returns once a loader of this process has begun that no earlier call has been told of.
func (p *process) started() {
	p.t.Helper()
	p.Call("Started", struct{}{}, &struct{}{})
}

// release lets one held loader end.
func (p *process) release(l Load) {
	p.t.Helper()
	p.Call("Release", l, &struct{}{})
}

// fills are the runs of this process's loader, those that go on included.
func (p *process) fills() (fills []Fill) {
	p.t.Helper()
	p.Call("Fills", struct{}{}, &fills)
	return fills
}

// waited counts the waits for another's fill, by what ended them: push, poll, flight or timeout.
func (p *process) waited() map[string]float64 {
	p.t.Helper()
	return p.Metric(cache.MetricLeaseWait, "result")
}

// waiters returns once so many requests of this process wait for another's fill.
func (p *process) waiters(n float64) {
	p.t.Helper()
	eventually(p.t, func() bool { return waiting(p) == n })
}

// waiting counts the requests that wait for another's fill.
func waiting(processes ...*process) (n float64) {
	for _, p := range processes {
		for _, requests := range p.Metric(cache.MetricWaiters, "holder") {
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
