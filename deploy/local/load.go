package main

import (
	"context"
	"net/url"
	"path/filepath"
)

// compare runs the load script while the graph shows it, and returns what it found. A script that ends with its
// thresholds missed has results all the same; they say so.
func (d *deployment) compare(ctx context.Context, g *graph) (loadResults, error) {
	reserved, dashboard, err := serve(0, nil)
	if err != nil {
		return loadResults{}, err
	}
	reserved.Close() // k6 takes it next
	results, report := filepath.Join(d.dir, "trending.json"), filepath.Join(d.dir, "trending.html")
	g.begin(&url.URL{Scheme: "http", Host: dashboard.address()})
	defer g.finish(report)
	failure := d.parts.run(ctx, d.loadScript(results, report, dashboard))
	if ctx.Err() != nil {
		return loadResults{}, failure
	}
	found, err := readResults(results)
	if err != nil && failure != nil {
		return loadResults{}, failure // it did not come so far as to have results
	}
	return found, err
}
