package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// run brings the deployment up, measures, tells, and stays until the context ends.
func run(ctx context.Context, o options, out io.Writer) (err error) {
	d := &deployment{scale: o.scale, out: out, started: time.Now(), has: whatIsInstalled()}
	if d.root, err = repository(); err != nil {
		return err
	}
	if d.at, err = choose(o.port, os.Getenv); err != nil {
		return err
	}
	if d.users, err = newUsers(); err != nil {
		return err
	}
	// Whatever can be refused is refused before anything runs.
	for _, refusal := range []error{
		needed(), allFree(d.at.wanted(d.has)), enoughSpace(os.TempDir(), spaceFor[o.scale]), canBeWritten(o.json),
	} {
		if refusal != nil {
			return refusal
		}
	}

	// These answer until the very end: a replica that shuts down still sends its last spans.
	moving, traces := &graph{}, newTraceMemory()
	graphServer, _, err := serve(d.at.graph.port, moving)
	if err != nil {
		return err
	}
	defer graphServer.Close()
	receiverServer, receiver, err := serve(0, &traceReceiver{memory: traces, forward: d.collectorForTraces()})
	if err != nil {
		return err
	}
	defer receiverServer.Close()
	d.receiver = receiver

	if d.dir, err = os.MkdirTemp("", "nervous-local-"); err != nil {
		return err
	}
	removeDir, err := removeAtTheEnd(d.dir)
	if err != nil {
		return errors.Join(err, os.Remove(d.dir))
	}
	ctx, crash := context.WithCancelCause(ctx)
	defer crash(nil)
	d.parts = &supervisor{dir: d.dir, crash: crash, grace: defaultGrace}
	defer func() {
		err = d.why(ctx, err)
		fmt.Fprintln(out, "\nEnding every part.")
		err = errors.Join(err, d.parts.stop(), removeDir())
	}()

	fmt.Fprintf(out, "Ctrl-C ends everything and leaves nothing behind. The moving graph: %s\n\n", d.at.graph.url())
	ready, err := d.up(ctx)
	if err != nil {
		return err
	}
	if d.faults, err = newFaults(ctx, d.metrics()); err != nil {
		return err
	}
	defer d.faults.close(ctx)
	measured, err := d.measure(ctx, moving, traces)
	if err != nil {
		return err
	}
	measured.ready = ready
	verdicts := judge(measured)
	if o.json != "" {
		m := describeMachine(ctx, d.databaseURL, d.redisURL, o.scale)
		if err := writeClaims(o.json, m, verdicts); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "\n%s\n%s\n", claimsTable(verdicts), traces.story(ctx))
	if o.once {
		return verdictOf(verdicts, measured.thresholdsPassed)
	}
	fmt.Fprint(out, d.whereToLook())
	<-ctx.Done()
	return nil
}

// measure runs everything that a claim is made from, one pattern after another.
func (d *deployment) measure(ctx context.Context, g *graph, traces *traceMemory) (m measurements, err error) {
	results, err := d.compare(ctx, g)
	if err != nil {
		return m, err
	}
	if m.audited.atSpike, err = d.countSpans(ctx); err != nil {
		return m, err
	}
	m.waiterDelayP99 = traces.waiterDelayP99(ctx, results.Phases["lease"])
	m.waiterDelayP99Of1000 = traces.waiterDelayP99(ctx, results.Phases["lease_1000"])
	traces.endDelays()
	if alone := results.Phases["alone"].P50; alone != nil {
		coldQuery := time.Duration(*alone * float64(time.Millisecond))
		if m.takeover, err = d.killTheLeader(ctx, coldQuery); err != nil {
			return m, err
		}
	}
	refreshed, err := d.refresh(ctx)
	if err != nil {
		return m, err
	}
	results = results.and(refreshed)
	m.phases = results.Phases
	if m.reconciling, err = d.reconcile(ctx); err != nil {
		return m, err
	}
	if m.limiting, err = d.limit(ctx); err != nil {
		return m, err
	}
	if m.audited.report, err = d.audit(ctx); err != nil {
		return m, err
	}
	if m.shown, err = d.dashboards(ctx); err != nil {
		return m, err
	}
	m.thresholdsPassed = results.ThresholdsPassed && m.reconciling.ThresholdsPassed && m.limiting.ThresholdsPassed
	return m, nil
}

// why says what really ended the run. A part that crashed comes first: whatever else failed then, failed because of it.
func (d *deployment) why(ctx context.Context, err error) error {
	crashed, byItself := errors.AsType[*partError](context.Cause(ctx))
	switch {
	case byItself:
		err = crashed
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(err, context.Cause(ctx)):
		err = fmt.Errorf("ended before the claims: %w", err)
	}
	if left, e := freeMB(d.dir); e == nil && left < 100 {
		err = fmt.Errorf("%w\nThe disk is full: %s has %d MB left. Free some, or choose another place with TMPDIR",
			err, d.dir, left)
	}
	return err
}

// verdictOf is the error of a run that did not keep its promises.
func verdictOf(verdicts []verdict, thresholdsPassed bool) error {
	if ids := broken(verdicts); len(ids) > 0 {
		return fmt.Errorf("%d claim(s) do not hold: %s", len(ids), strings.Join(ids, ", "))
	}
	if !thresholdsPassed {
		return errors.New("the claims hold, but a load script missed a threshold of its own (its table says which)")
	}
	return nil
}

// repository finds the root of the checkout from where this program was built: deploy/local.
func repository() (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	root := filepath.Join(filepath.Dir(program), "..", "..")
	for _, built := range []string{"deploy/Caddyfile", "app/app"} {
		if _, err := os.Stat(filepath.Join(root, built)); err != nil {
			return "", fmt.Errorf("%w; start with ./deploy/local/up, which builds what is needed in its place", err)
		}
	}
	return root, nil
}

// canBeWritten refuses a path that would fail only after minutes of work.
func canBeWritten(path string) error {
	if path == "" {
		return nil
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil {
		return fmt.Errorf("-json %s: %w", path, err)
	} else if !info.IsDir() {
		return fmt.Errorf("-json %s: %s is not a folder", path, filepath.Dir(path))
	}
	return nil
}

// whereToLook lists the addresses of a deployment that stays.
func (d *deployment) whereToLook() string {
	var b strings.Builder
	say := func(where, what string) { fmt.Fprintf(&b, "  %-66s %s\n", where, what) }
	b.WriteString("It stays up until Ctrl-C. Look around:\n\n")
	say(d.at.door.url()+"/posts/trending", "the answer; its headers say what it cost")
	say(d.at.door.url()+"/posts/trending?strategy=n_plus_one", "the same, the naive way")
	say(d.at.door.url()+"/payments", "how many are reconciled, counted in Postgres now")
	say(d.at.door.url(), "what there is; its headers say how often you may still ask")
	say(d.at.graph.url(), "the graph of the spike and the cold bursts")
	if d.has.grafana {
		say(d.at.grafana.url(), "Grafana: dashboards, traces, logs")
	}
	say(d.at.prometheus.url()+"/api/v1/query?query=cache_requests_total", "every metric (this build has no web pages)")
	say(d.databaseURL, "for psql")
	say(d.redisURL, "for redis-cli -u")
	say(filepath.Join(d.dir, "*.log"), "what the parts say")
	if k6, err := exec.LookPath("k6"); err == nil {
		fmt.Fprintf(&b, "\nAgain: BASE_URL=%s %s run %s\n", d.at.door.url(), k6, d.path("loadtest/trending.js"))
	}
	return b.String()
}
