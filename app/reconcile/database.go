package reconcile

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// conn is a connection, a pool or a transaction.
type conn interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// The deadlines of statements, and of flushes. The work's is many times what a range takes, and short enough that a run
// survives a failover in less than half a minute. Those of the record are short, because each change of it is one row.
const (
	workTimeout   = 15 * time.Second
	recordTimeout = 5 * time.Second
	// idleTimeout is how long a transaction that marks may stand still; reconcile_fence has the same.
	idleTimeout = 5 * time.Second
	// endTimeout is longer: the end waits for the transactions that mark, and the server ends one that stands still
	// after five seconds.
	endTimeout = 10 * time.Second
	// wholeTableTimeout is of the demo's statements, which read or write all payments.
	wholeTableTimeout = 5 * time.Minute
)

// database bounds every statement. A Postgres that has failed over without closing connections does not answer on
// those; without a deadline of the client, a statement waits there for a quarter of an hour.
type database struct {
	*pgxpool.Pool
	acquire time.Duration

	mu    sync.Mutex
	reset time.Time
}

// within runs f, which is one statement, with a deadline. Where Postgres allows no further connection, f waits up to
// acquire for one of the pool's. When it passes, the other idle connections may lead to the same dead server, so the
// pool replaces them: at most once in that time, because a server may also be only slow.
func (d *database) within(ctx context.Context, timeout time.Duration, f func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := f(bounded)
	for giveUp := time.Now().Add(d.acquire); isFull(err) && time.Now().Before(giveUp); {
		select {
		case <-time.After(10*time.Millisecond + rand.N(10*time.Millisecond)):
			err = f(bounded)
		case <-bounded.Done():
			return err
		}
	}
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		d.replaceIdle(timeout)
	}
	return err
}

func (d *database) replaceIdle(atMostEvery time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.reset) >= atMostEvery {
		d.reset = time.Now()
		d.Reset()
	}
}

// connect opens a connection beside the pool. What must not queue behind requests uses it.
func (d *database) connect(ctx context.Context) (*pgx.Conn, error) {
	c := d.Config()
	if c.BeforeConnect != nil {
		if err := c.BeforeConnect(ctx, c.ConnConfig); err != nil {
			return nil, err
		}
	}
	return pgx.ConnectConfig(ctx, c.ConnConfig)
}

// isFull says that Postgres has refused a connection because there are as many as it allows.
func isFull(err error) bool { return hasCode(err, "53300") }

// stale says that a transaction was refused by reconcile_fence or reconcile_seal.
func stale(err error) bool { return hasCode(err, "RCF01") }

func deadlock(err error) bool { return hasCode(err, "40P01") }

func hasCode(err error, code string) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && refused.Code == code
}
