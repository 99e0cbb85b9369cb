package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"nervous/app/reconcile"
	"nervous/app/telemetry"
)

// commandEnd bounds the end of the command: the last flush, and the last export of telemetry.
const commandEnd = 2 * time.Second

// runReconcile does from a terminal what POST /reconcile asks for. The run is like any other: a replica may take it
// first, and goes on with it if this process dies. Ctrl-C cancels it.
func runReconcile(ctx context.Context, p program, args []string) error {
	c, err := loadJobConfig(p.getenv)
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("reconcile", flag.ContinueOnError)
	flags.SetOutput(p.stderr)
	flags.Func("strategy", "`how`: n_plus_one, batched_reads, buffered (default) or single_statement",
		func(name string) error { return c.Reconcile.Strategy.UnmarshalText([]byte(name)) })
	limit := flags.Int("limit", 0, "how many of the pending payments, the first ones; 0 is all")
	if flags.Parse(args) != nil {
		return errUsage
	}
	wrong := ""
	switch {
	case *limit < 0:
		wrong = "the limit must not be negative"
	case flags.NArg() > 0:
		wrong = fmt.Sprintf("a run has no use for %q", flags.Args())
	}
	if wrong != "" {
		fmt.Fprintf(p.stderr, "app: %s\n\n", wrong)
		flags.Usage()
		return errUsage
	}
	flush, err := telemetry.Start(ctx, telemetry.Config{
		Instance: terminal(), LogWriter: p.stderr, LogLevel: c.LogLevel,
	})
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandEnd)
		defer cancel()
		if lost := flush(bounded); lost != nil { // which is no fault of the run's
			fmt.Fprintln(p.stderr, "app: what was measured is lost:", lost)
		}
	}()
	return withStores(ctx, c, func(r *reconcile.Reconciler) error {
		work, stop := context.WithCancel(context.WithoutCancel(ctx))
		var group errgroup.Group
		group.Go(func() error { return r.Run(work) })
		group.Go(func() error {
			defer stop()
			job, err := r.Start(ctx, c.Reconcile.Strategy, *limit)
			if err != nil {
				return err
			}
			if job, err = follow(ctx, r, job, p.stdout); err != nil {
				return err
			}
			return report(p.stdout, job)
		})
		err := group.Wait()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandEnd)
		defer cancel()
		_ = r.Shutdown(bounded) // what it had to cancel, a replica does
		return err
	})
}

// terminal is this process's name among the replicas.
func terminal() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("terminal@%s", host)
}

// follow shows a run's progress until it is over. When the context ends, it cancels the run and waits for that.
func follow(ctx context.Context, r *reconcile.Reconciler, job reconcile.Job, w io.Writer) (reconcile.Job, error) {
	bar := progressbar.NewOptions64(job.Total, progressbar.OptionSetWriter(barOf(w)), progressbar.OptionSetWidth(30),
		progressbar.OptionShowCount(), progressbar.OptionSetPredictTime(true),
		progressbar.OptionSetDescription("reconcile: "+string(job.Strategy)), progressbar.OptionOnCompletion(nil))
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	asking, end := context.WithoutCancel(ctx), ctx.Done()
	for {
		var err error
		if job, err = r.Job(asking, job.ID); err != nil {
			return job, err
		}
		_ = bar.Set64(job.Examined)
		if job.State.Over() {
			_ = bar.Exit()
			fmt.Fprintln(barOf(w))
			return job, nil
		}
		select {
		case <-end:
			end = nil // once
			if job, err = r.Cancel(asking, job.ID); err != nil {
				return job, err
			}
		case <-again.C:
		}
	}
}

// barOf is where a bar is drawn: where w is no terminal, nowhere.
func barOf(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return w
	}
	return io.Discard
}

// report says how a run ended and what it cost. It returns an error unless it is done.
func report(out io.Writer, j reconcile.Job) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "run\t%s, %s\n", j.ID, j.State)
	fmt.Fprintf(w, "reconciled\t%d of %d payments in %.2f s\n", j.Counts.Reconciled, j.Total, j.Took.Seconds())
	fmt.Fprintf(w, "not\t%d of another amount, %d in another currency, %d without a settlement\n",
		j.Counts.Amount, j.Counts.Currency, j.Counts.Missing)
	fmt.Fprintf(w, "round-trips\t%d to Postgres, %d to Redis, and %d for this record\n",
		j.DBTrips, j.RedisTrips, j.OwnTrips)
	if j.Degraded > 0 {
		fmt.Fprintf(w, "directly\t%d, because Redis refused them\n", j.Degraded)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	switch j.State {
	case reconcile.Done:
		return nil
	case reconcile.Cancelled:
		return errors.New("the run was cancelled; what it has marked stays marked")
	}
	return fmt.Errorf("the run failed: %s", j.Err)
}

// withStores calls f with a reconciler over the configured stores.
func withStores(ctx context.Context, c jobConfig, f func(*reconcile.Reconciler) error) error {
	pool, err := openPostgres(context.WithoutCancel(ctx), c.Database)
	if err != nil {
		return err
	}
	defer pool.Close()
	rdb, err := openRedis(c.Redis)
	if err != nil {
		return err
	}
	defer rdb.Close()
	check, err := newRedisCheck(rdb, c.Redis)
	if err != nil {
		return err
	}
	if _, err := check.atStart(ctx); err != nil {
		return err
	}
	return f(reconcile.New(pool, rdb, reconcileOptions(c.Reconcile, c.Database, c.Redis, terminal())))
}
