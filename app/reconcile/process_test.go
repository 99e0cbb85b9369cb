package reconcile_test

import (
	"cmp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/reconcile"
	"nervous/app/servicetest/replica"
)

// process is a replica, seen from the test.
type process struct {
	*replica.Process
	t *testing.T
}

// startProcess starts a replica between the stores of that network.
func startProcess(t *testing.T, n network, o reconcile.Options) *process {
	t.Helper()
	o.ByItself = cmp.Or(o.ByItself, reconcile.Buffered) // there is no way to write down none
	return &process{replica.Start(t, patience, settings{n, o}), t}
}

// job returns the span of the run that this process had. It waits for it: the record of a run is there before its span
// ends.
func (p *process) job() replica.Span {
	p.t.Helper()
	eventually(p.t, func() bool { return len(p.Spans(reconcile.SpanJob)) == 1 })
	return p.Spans(reconcile.SpanJob)[0]
}

// start starts a run, which this process then takes, and fails if another one goes on.
func (p *process) start(by reconcile.Strategy) Started {
	p.t.Helper()
	var started Started
	p.Call("Start", Order{Strategy: by}, &started)
	require.Zero(p.t, started.Running)
	return started
}

func (p *process) settled(payment int64) (event Event) {
	p.t.Helper()
	p.Call("Settled", payment, &event)
	return event
}

// patience bounds every wait: a test that hangs should say where.
const patience = 4 * time.Minute

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, patience, 5*time.Millisecond)
}
