package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// fullFor is how long no connection is tried after Postgres has refused one because there are too many.
const fullFor = 200 * time.Millisecond

// full remembers that Postgres has refused a connection because the role, the database or the server has as many as it
// may. The requests wait for one of the pool's then (see trending and reconcile) and ask the pool again and again, and
// each of these would have Postgres start a process only to be refused.
type full struct {
	mu    sync.Mutex
	err   error
	until time.Time
}

// refusal returns the last refusal while it counts.
func (f *full) refusal() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Now().Before(f.until) {
		return f.err
	}
	return nil
}

// TraceConnectStart does nothing.
func (f *full) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return ctx
}

// TraceConnectEnd notes a refusal.
func (f *full) TraceConnectEnd(_ context.Context, data pgx.TraceConnectEndData) {
	const tooManyConnections = "53300"
	refused, ok := errors.AsType[*pgconn.PgError](data.Err)
	if !ok || refused.Code != tooManyConnections {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.until = data.Err, time.Now().Add(fullFor)
}

// TraceQueryStart does nothing.
func (f *full) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

// TraceQueryEnd does nothing.
func (f *full) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
