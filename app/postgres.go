package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"nervous/app/postgresurl"
	"nervous/app/reconcile"
	"nervous/app/telemetry"
	"nervous/app/trending"
)

// sessionSettings are a session's, where the server has sessions for us.
func sessionSettings(d database) map[string]string {
	return map[string]string{
		"statement_timeout": strconv.FormatInt(d.StatementTimeout.Milliseconds(), 10),
		// A replica that stands still in a transaction, or whose network does, would hold up all other markers.
		"idle_in_transaction_session_timeout": "5000",
		// One query, one core: a service answers many at a time, and each that took all cores would starve the others.
		"max_parallel_workers_per_gather": "0",
	}
}

func openPostgres(ctx context.Context, d database) (*pgxpool.Pool, error) {
	address, err := postgresurl.Parse(d.URL)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL %w", err)
	}
	c := address.Pool
	// A pool that is warm from the start and as wide as it may get: connecting is no part of any request.
	c.MaxConns, c.MinConns = d.MaxConns, d.MaxConns
	postgresurl.Name(c.ConnConfig, "nervous")
	c.ConnConfig.DialFunc = dialer()
	p := &pooler{settings: sessionSettings(d)}
	refused := &full{}
	c.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		if err := refused.refusal(); err != nil {
			return err
		}
		return p.beforeConnect(ctx, c)
	}
	c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if conn.Config().DefaultQueryExecMode != pgx.QueryExecModeCacheStatement {
			return nil // a pooler may send the next statement to another session, which has not prepared it
		}
		err := errors.Join(trending.Prepare(ctx, conn), reconcile.Prepare(ctx, conn))
		if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == "42P01" { // undefined_table
			err = fmt.Errorf("the database lacks a part of the schema: run `app migrate`: %w", err)
		}
		return err
	}
	// The default pings a connection that was idle for a second, one more round-trip for the next request. A look at
	// the socket, which costs none, finds those that the server has closed; only they are pinged, and so replaced.
	c.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool {
		//nolint:staticcheck // deprecated in favour of the very ping that is to be saved
		return p.IdleDuration > time.Second && p.Conn.PgConn().CheckConn() != nil
	}
	if err := telemetry.Postgres(c); err != nil {
		return nil, err
	}
	answers := &deadlines{within: d.StatementTimeout + answerMargin}
	c.ConnConfig.Tracer = multitracer.New(c.ConnConfig.Tracer, answers, refused)
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	answers.pool.Store(pool)
	return pool, telemetry.ObservePostgresPool(pool)
}

// pooler finds out whether DATABASE_URL leads to a pooler in transaction mode, such as PgBouncer. Behind one a session
// belongs to us for one transaction only: it takes no settings at its start (a PgBouncer refuses them, or ignores them)
// and prepares no named statements.
type pooler struct {
	settings map[string]string

	mu           sync.Mutex
	known, there bool
}

// beforeConnect sets what a connection to a server may have, and one to a pooler must not.
func (p *pooler) beforeConnect(ctx context.Context, c *pgx.ConnConfig) error {
	there, err := p.between(ctx, c)
	if err != nil {
		return err
	}
	if there {
		// Another mode, which the connection string chose, stays: these two need the same session for two round-trips.
		switch c.DefaultQueryExecMode {
		case pgx.QueryExecModeCacheStatement, pgx.QueryExecModeDescribeExec:
			c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		}
		return nil
	}
	for name, value := range p.settings {
		c.RuntimeParams[name] = value
	}
	return nil
}

// between says whether there is a pooler. It asks once, with a connection of its own: a pooler names another process
// than the server's, because what a client cancels by is the pooler's.
func (p *pooler) between(ctx context.Context, c *pgx.ConnConfig) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known {
		return p.there, nil
	}
	conn, err := pgx.ConnectConfig(ctx, c.Copy())
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	const probe = `-- name: pooler_probe
SELECT pg_backend_pid()`
	var server uint32
	err = conn.QueryRow(ctx, probe, pgx.QueryExecModeSimpleProtocol).Scan(&server) // it prepares nothing
	if err != nil {
		return false, err
	}
	p.known, p.there = true, server != conn.PgConn().PID()
	return p.there, nil
}

// dialer gives up on a peer that has gone silently as soon as the system can tell.
func dialer() pgconn.DialFunc {
	d := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 3 * time.Second, Count: 3},
		Control:         unacknowledged,
	}
	return d.DialContext
}
