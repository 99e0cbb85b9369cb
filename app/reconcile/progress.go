package reconcile

import (
	"context"
	"sync"
	"time"

	"nervous/app/roundtrips"
)

// progress is what a worker has to report.
type progress struct {
	mu sync.Mutex
	// The range that it works on, and what it has looked at of that.
	n        int
	examined int64
	// base is what the whole run had looked at when it was last asked, without that range.
	base     int64
	degraded int64
}

func (w *worker) begin(in idRange) {
	w.progress.mu.Lock()
	defer w.progress.mu.Unlock()
	w.progress.n, w.progress.examined = in.n, 0
}

// examined counts payments that have been looked at.
func (w *worker) examined(ctx context.Context, page ...compared) {
	var counts Counts
	for _, p := range page {
		counts.add(p.Finding, 1)
	}
	w.tel.items(ctx, w.job.Strategy, counts)
	w.progress.mu.Lock()
	defer w.progress.mu.Unlock()
	w.progress.examined += int64(len(page))
	w.show()
}

func (w *worker) degraded(n int64) {
	w.progress.mu.Lock()
	defer w.progress.mu.Unlock()
	w.progress.degraded += n
}

// finished counts a range that is done. What a single statement has found beside what it has marked, only that counts.
func (w *worker) finished(ctx context.Context, in idRange, rest Counts) {
	if w.job.Strategy == SingleStatement {
		w.tel.items(ctx, w.job.Strategy, rest)
	}
	w.progress.mu.Lock()
	defer w.progress.mu.Unlock()
	w.progress.base += in.payments
	w.progress.n, w.progress.examined = 0, 0
	w.show()
}

// show reports the progress of the run, as far as this worker knows it.
func (w *worker) show() {
	p := &w.progress
	w.tel.progressed(w.job.Strategy, min(p.base+p.examined, w.job.Total), w.job.Total)
}

// report is a row of reconcile_workers.
type report struct {
	n                             int
	examined, degraded            int64
	seconds                       float64
	dbTrips, redisTrips, ownTrips int64
}

// report says what this worker has done and what that has cost; one more round-trip of its own is for saying so.
func (w *worker) report() report {
	w.progress.mu.Lock()
	defer w.progress.mu.Unlock()
	p := &w.progress
	r := report{
		n: p.n, examined: p.examined, degraded: p.degraded,
		dbTrips: w.tally.Count(roundtrips.Postgres), redisTrips: w.tally.Count(roundtrips.Redis),
		ownTrips: w.own.Count(roundtrips.Postgres) + w.own.Count(roundtrips.Redis) + 1,
	}
	if w.leads { // the others work at the same time
		r.seconds = time.Since(w.begun).Seconds()
	}
	return r
}
