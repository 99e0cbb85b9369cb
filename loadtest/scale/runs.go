package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"
)

// watched is what was seen while a run went on.
type watched struct {
	redisMB            float64
	transaction, event time.Duration // the longest
}

// measureRuns prints one row for a buffered run of each size.
func (b *bench) measureRuns(ctx context.Context, sizes []int) error {
	if len(sizes) == 0 {
		return nil
	}
	fmt.Println("| payments | seconds | µs a payment | DB round-trips | Redis round-trips | Redis, peak MB " +
		"| app, peak MB | longest transaction, s | slowest live event, ms |")
	fmt.Println("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
	var first, last float64
	for _, payments := range sizes {
		perPayment, err := b.measureRun(ctx, payments)
		if err != nil {
			return err
		}
		if first == 0 {
			first = perPayment
		}
		last = perPayment
	}
	fmt.Printf("\nSlope: a payment of the largest run costs %.2f times one of the smallest.\n", last/first)
	return nil
}

func (b *bench) measureRun(ctx context.Context, payments int) (perPayment float64, err error) {
	if err := b.load(ctx, payments); err != nil {
		return 0, err
	}
	if err := b.startApp(ctx); err != nil {
		return 0, err
	}
	defer b.stopApp()
	var run struct {
		ID, State, Error string
		Seconds          float64
		Total, Examined  int
		Counts           struct{ Reconciled int }
		RoundTrips       struct{ Postgres, Redis int } `json:"round_trips"`
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	seen := b.watch(watching)
	order := map[string]string{"strategy": "buffered"}
	if err := b.call(ctx, http.MethodPost, "/reconcile", order, &run); err != nil {
		return 0, err
	}
	patience := 30*time.Second + time.Duration(payments)*200*time.Microsecond
	err = until(ctx, patience, 200*time.Millisecond, func() (bool, error) {
		err := b.call(ctx, http.MethodGet, "/reconcile/"+run.ID, nil, &run)
		return run.State != "running", err
	})
	if err != nil {
		return 0, fmt.Errorf("the run of %d payments: %w", payments, err)
	}
	peak := b.peakMB()
	stop()
	w := seen()
	if agree := payments - (payments+20)/100; run.State != "done" || run.Counts.Reconciled < agree-1 {
		return 0, fmt.Errorf("the run of %d payments is %s with %d reconciled of %d: %s",
			payments, run.State, run.Counts.Reconciled, agree, run.Error)
	}
	perPayment = run.Seconds / float64(payments) * 1e6
	fmt.Printf("| %d | %.1f | %.0f | %d | %d | %.0f | %.0f | %.2f | %.0f |\n", payments, run.Seconds, perPayment,
		run.RoundTrips.Postgres, run.RoundTrips.Redis, w.redisMB, peak, w.transaction.Seconds(),
		float64(w.event.Microseconds())/1e3)
	return perPayment, nil
}

// watch looks at the stores, and sends a live event, ten times a second or more, until the context ends.
func (b *bench) watch(ctx context.Context) (seen func() watched) {
	var w watched
	var group sync.WaitGroup
	every := func(interval time.Duration, look func()) {
		group.Go(func() {
			again := time.NewTicker(interval)
			defer again.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-again.C:
					look()
				}
			}
		})
	}
	every(50*time.Millisecond, func() {
		var seconds float64
		const longest = `SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8
			FROM pg_stat_activity WHERE application_name = 'nervous' AND xact_start IS NOT NULL`
		if b.pool.QueryRow(ctx, longest).Scan(&seconds) == nil {
			w.transaction = max(w.transaction, time.Duration(seconds*float64(time.Second)))
		}
	})
	every(100*time.Millisecond, func() { w.redisMB = max(w.redisMB, b.redisMB(ctx)) })
	every(100*time.Millisecond, func() {
		began := time.Now()
		err := b.call(ctx, http.MethodPost, "/payments/1/settled", nil, nil)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "live event:", err)
		}
		w.event = max(w.event, time.Since(began))
	})
	return func() watched {
		group.Wait()
		return w
	}
}
