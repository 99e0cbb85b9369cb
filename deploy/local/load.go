package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// compare runs the load script while the graph shows it, prints its tables, and returns what it found. A script that
// missed a threshold has found something too; its results say so.
func (d *deployment) compare(ctx context.Context, g *graph) (loadResults, error) {
	reserved, dashboard, err := serve(0, nil)
	if err != nil {
		return loadResults{}, err
	}
	reserved.Close() // k6 takes it next
	results, report := filepath.Join(d.dir, "trending.json"), filepath.Join(d.dir, "trending.html")
	d.say("the load script runs: a spike, then each strategy's cold burst. Two minutes; watch it at %s", d.at.graph.url())
	g.begin(&url.URL{Scheme: "http", Host: dashboard.address()})
	defer g.finish(report)
	return load[loadResults](ctx, d, drawn(d.loadScript("k6", "trending.js", results), report, dashboard), results)
}

// A TTL so short that several refreshes fall into half a minute, and still long against the query.
var shortLived = []string{"TRENDING_TTL=12s", "TRENDING_STALE_FOR=30s"}

// refresh runs the part of the load script that watches a hot answer being computed anew, on replicas whose answers do
// not last as long as usual.
func (d *deployment) refresh(ctx context.Context) (loadResults, error) {
	d.say("the replicas come back with a TTL of seconds: who waits while a hot answer is computed anew? Half a minute")
	if err := d.rollout(ctx, shortLived...); err != nil {
		return loadResults{}, err
	}
	results := filepath.Join(d.dir, "refresh.json")
	script := d.loadScript("k6 refresh", "trending.js", results)
	script.env = append(script.env, "SCENARIO=refresh")
	found, err := load[loadResults](ctx, d, script, results)
	if err != nil {
		return loadResults{}, err
	}
	return found, d.rollout(ctx)
}

// load runs a load script, prints its tables, and returns what it found.
func load[results any](ctx context.Context, d *deployment, script part, path string) (found results, err error) {
	finish := signOfLife()
	failure := d.parts.run(ctx, script)
	finish()
	if ctx.Err() != nil {
		return found, failure
	}
	found, err = readResults[results](path)
	if err != nil && failure != nil {
		return found, failure // it did not come so far as to have results
	}
	if tables, err := os.ReadFile(d.parts.log(script.name)); err == nil {
		fmt.Fprintf(d.out, "%s", tables)
	}
	return found, err
}

// signOfLife shows on a terminal that something is going on, and for how long, until finish is called.
func signOfLife() (finish func()) {
	if !term.IsTerminal(int(os.Stdout.Fd())) {
		return func() {}
	}
	spinner := progressbar.NewOptions(-1, progressbar.OptionSetWriter(os.Stdout), progressbar.OptionSpinnerType(14),
		progressbar.OptionSetDescription("         it runs"), progressbar.OptionClearOnFinish())
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				_ = spinner.Finish()
				return
			case <-tick.C:
				_ = spinner.Add(1)
			}
		}
	}()
	return func() { close(done); <-ended }
}
