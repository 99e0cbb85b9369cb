package telemetry

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"nervous/app/servicetest"
)

// The audit in small, with everything in it that pgx does without telling its tracer.
func TestPostgresSpansAreTheStatementsThatTheServerCounted(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := servicetest.StartPostgres(ctx, servicetest.Options{Settings: map[string]string{
		"shared_preload_libraries": "pg_stat_statements", "fsync": "off",
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	auditor, err := pgx.Connect(ctx, server.URL("postgres"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = auditor.Close(context.WithoutCancel(ctx)) })
	url, err := server.CreateDatabase(ctx, "audited", "")
	require.NoError(t, err)
	_, err = auditor.Exec(ctx, "CREATE EXTENSION pg_stat_statements")
	require.NoError(t, err)

	r, wire := record(t), &serverBytes{}
	pool := newPool(t, r, url, wire.keepIn, func(c *pgxpool.Config) {
		c.MaxConns = 4
		c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return true }
	})
	_, err = pool.Exec(ctx, "CREATE TABLE numbers (n int PRIMARY KEY)")
	require.NoError(t, err)
	var group sync.WaitGroup
	for worker := range 6 {
		group.Go(func() { mixedWorkload(ctx, t, pool, worker*10000) })
	}
	group.Wait()

	var statements int64
	require.NoError(t, auditor.QueryRow(ctx, `SELECT sum(calls) FROM pg_stat_statements
		WHERE toplevel AND dbid = (SELECT oid FROM pg_database WHERE datname = 'audited')`).Scan(&statements))
	var traced int64
	for _, n := range r.counter(TelemetryCalls, "operation") {
		traced += n
	}
	t.Logf("%d statements, %d round-trips", statements, wire.readyForQueries())
	require.Equal(t, statements, traced)
	require.Greater(t, statements, int64(6*20*8), "the workload was run")

	onSpans := r.roundTrips()
	require.Equal(t, wire.readyForQueries(), onSpans)
	require.Equal(t, map[string]int64{"postgres": onSpans}, r.counter(WireRoundTrips, "store"))
	var counted int64
	for _, n := range r.counter(StoreRoundTrips) {
		counted += n
	}
	require.Equal(t, onSpans, counted)
	require.Empty(t, r.spans(func(s tracetest.SpanStub) bool { return s.EndTime.IsZero() }))
	require.NotEmpty(t, r.spans(named("UNTRACED")), "Pool.Ping")
	require.NotEmpty(t, r.spans(named("ACQUIRE")), "pings of idle connections")
	require.Len(t, r.spans(named("COPY nowhere")), 6*20, "pgx itself never ends these")
}

// mixedWorkload does a bit of everything twenty times, a third of it with errors.
func mixedWorkload(ctx context.Context, t *testing.T, pool *pgxpool.Pool, from int) {
	for i := from; i < from+20*100; i += 100 {
		var n int
		_ = pool.QueryRow(ctx, "SELECT $1::int", i).Scan(&n)
		_, _ = pool.Exec(ctx, "INSERT INTO numbers VALUES ($1)", i)
		_, _ = pool.Exec(ctx, "INSERT INTO numbers VALUES ($1)", i) // there already
		_, _ = pool.Exec(ctx, "SELECT nonsense FROM numbers")
		_, _ = pool.Exec(ctx, "SELECT 1/$1::int", 0) // fails after its prepare
		_ = pool.Ping(ctx)

		batch := &pgx.Batch{}
		batch.Queue("SELECT 1")
		batch.Queue("INSERT INTO numbers VALUES ($1)", i+1)
		batch.Queue("SELECT 1")
		_ = pool.SendBatch(ctx, batch).Close()
		failing := &pgx.Batch{}
		failing.Queue("SELECT 2")
		failing.Queue("INSERT INTO numbers VALUES ($1)", i+1)
		failing.Queue("SELECT 3")
		_ = pool.SendBatch(ctx, failing).Close()

		rows := [][]any{{i + 2}, {i + 3}}
		_, _ = pool.CopyFrom(ctx, pgx.Identifier{"numbers"}, []string{"n"}, pgx.CopyFromRows(rows))
		_, _ = pool.CopyFrom(ctx, pgx.Identifier{"numbers"}, []string{"n"}, pgx.CopyFromRows(rows)) // there already
		_, _ = pool.CopyFrom(ctx, pgx.Identifier{"nowhere"}, []string{"n"}, pgx.CopyFromRows(rows))
		_ = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "DELETE FROM numbers WHERE n = $1", i+2)
			return err
		})
	}
	if err := ctx.Err(); err != nil {
		t.Error(err)
	}
}

// serverBytes keeps what servers send, to be read by a parser that shares nothing with the one under test.
type serverBytes struct {
	mu          sync.Mutex
	connections []*bytes.Buffer
}

func (s *serverBytes) keepIn(config *pgxpool.Config) {
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		kept := &bytes.Buffer{}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.connections = append(s.connections, kept)
		return &keepingConn{Conn: conn, kept: kept}, nil
	}
}

type keepingConn struct {
	net.Conn
	kept *bytes.Buffer
}

func (c *keepingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.kept.Write(p[:n])
	return n, err
}

func (s *serverBytes) readyForQueries() (n int64) {
	for _, kept := range s.connections {
		for b := kept.Bytes(); len(b) > 0; b = b[1+binary.BigEndian.Uint32(b[1:]):] {
			if b[0] == 'Z' {
				n++
			}
		}
	}
	return n
}
