// Package seed fills a database with the demo's data: posts of three days, what happened to them in the last one, and
// payments with what the bank says of them. The rows are the same every time; only the clock is not: the newest is now.
//
// Run is safe to repeat, to interrupt and to start twice at once. Rows are copied in batches, and each batch commits
// together with its record, so that after a crash, a full disk or a lost connection the same command goes on where the
// last one ended, to the very same rows. A database with another scale is loaded anew if it holds the rows of that
// scale and no others. One that holds other rows is refused and not touched, unless Options.Replace allows it.
package seed

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"nervous/app/postgresurl"
)

// Options of a Run.
type Options struct {
	// Scale is how much to load. Required.
	Scale Scale
	// Replace allows Run to empty the tables although they hold rows that no seed has written, or may hold such rows.
	Replace bool
	// Report hears how the run gets on; while rows are copied, many times a second. Defaults to nobody.
	Report func(Progress)
}

// Progress is where a run stands.
type Progress struct {
	Doing string // a short phrase; the same one for as long as it goes on
	Rows  int    // in the database by now, by this run and those before it; 0 before that is known
	Of    int    // the rows of the whole scale; 0 before that is known
}

// ErrNotEmpty is why Run refuses a database.
var ErrNotEmpty = errors.New("the database holds rows that no seed has written, or that an older edition may have " +
	"written, and seed would delete them: give it a database of its own, or allow it with -replace")

// run is one Run in progress.
type run struct {
	Options
	conn     *pgx.Conn
	record   record
	doing    string
	rows, of int // as in Progress
}

// Run loads what is missing, moves the clock so that the newest post and event are of this moment (freshen), and leaves
// the tables vacuumed and analyzed, so that plans do not change later. The schema must be there already. While another
// Run works on the same database, this one waits for its end.
func Run(ctx context.Context, databaseURL string, options Options) error {
	config, err := postgresurl.Connection(databaseURL, "nervous seed")
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	config.RuntimeParams["statement_timeout"] = "0" // a limit that suits requests does not suit a load
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))

	r := &run{Options: options, conn: conn}
	for _, step := range []func(context.Context) error{r.lock, r.open, r.load, r.freshen, r.settle} {
		if err := step(ctx); err != nil {
			err = r.explain(ctx, err)
			if r.rows < r.of {
				r.report(stopped)
			}
			return err
		}
	}
	r.report(fmt.Sprintf("%s data is ready", r.Scale.Name))
	return nil
}

// lock makes this run the only one, for as long as its connection lives.
func (r *run) lock(ctx context.Context) error {
	const key = "nervous seed"
	var alone bool
	err := r.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock(hashtext($1))", key).Scan(&alone)
	if err != nil || alone {
		return err
	}
	r.report("waiting until another seed of this database has ended")
	_, err = r.conn.Exec(ctx, "SELECT pg_advisory_lock(hashtext($1))", key)
	return err
}

// load copies the batches that are not there yet.
func (r *run) load(ctx context.Context) error {
	all := batches(r.Scale)
	for i, b := range all {
		r.of += b.rows
		if i < r.record.Batches {
			r.rows += b.rows
		}
	}
	for _, b := range all[r.record.Batches:] {
		r.report("loading " + b.table)
		err := pgx.BeginFunc(ctx, r.conn, func(tx pgx.Tx) error {
			if _, err := tx.CopyFrom(ctx, pgx.Identifier{b.table}, b.columns, r.source(b)); err != nil {
				return err
			}
			return r.note(ctx, tx, func(record *record) { record.Batches, record.Settled = record.Batches+1, false })
		})
		if err != nil {
			return err
		}
		r.rows += b.rows
		r.report(r.doing)
	}
	return nil
}

// source hands a batch's rows to COPY and reports on the way.
func (r *run) source(b batch) pgx.CopyFromSource {
	const often = 10_000
	next, done := b.generate(r.record.Newest), 0
	return pgx.CopyFromFunc(func() ([]any, error) {
		if done == b.rows {
			return nil, nil
		}
		if done++; done%often == 0 && r.Report != nil {
			r.Report(Progress{Doing: r.doing, Rows: r.rows + done, Of: r.of})
		}
		return next(), nil
	})
}

// stopped is what a run does last that failed while it loaded.
const stopped = "stopped"

func (r *run) report(doing string) {
	if r.doing = doing; r.Report != nil {
		r.Report(Progress{Doing: doing, Rows: r.rows, Of: r.of})
	}
}

// explain says what went wrong in the words of whoever has to put it right.
func (r *run) explain(ctx context.Context, err error) error {
	const diskFull, undefinedTable, lockNotAvailable = "53100", "42P01", "55P03"
	const again = "; what is loaded stays, and the same command goes on from there"
	var server *pgconn.PgError
	code := ""
	if errors.As(err, &server) {
		code = server.Code
	}
	switch {
	case errors.Is(err, ErrNotEmpty):
		return fmt.Errorf("seed: %w", err)
	case code == undefinedTable:
		return fmt.Errorf("seed: the schema is not there, run `app migrate` first: %w", err)
	case code == diskFull:
		return fmt.Errorf("seed: %s: the disk of Postgres is full, free some space%s: %w", r.doing, again, err)
	case code == lockNotAvailable:
		return fmt.Errorf("seed: %s: somebody has kept a table locked for %s%s: %w", r.doing, lockPatience, again, err)
	case ctx.Err() != nil:
		return fmt.Errorf("seed: %s: interrupted%s: %w", r.doing, again, context.Cause(ctx))
	case r.conn.IsClosed():
		return fmt.Errorf("seed: %s: the connection to Postgres was lost%s: %w", r.doing, again, err)
	}
	return fmt.Errorf("seed: %s: %w", r.doing, err)
}
