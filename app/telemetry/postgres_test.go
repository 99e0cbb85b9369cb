package telemetry

import (
	"bytes"
	"context"
	"encoding/binary"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"nervous/app/roundtrips"
	"nervous/app/servicetest"
)

// newPool returns an instrumented pool on the database.
func newPool(t *testing.T, r *recorder, url string, adjust ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	for _, a := range adjust {
		a(config)
	}
	require.NoError(t, instrumentPostgres(config, r.wire, r.tracers, r.meters))
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func TestPostgresSpanSpeaksTodaysNames(t *testing.T) {
	t.Parallel()
	r := record(t)
	pool := newPool(t, r, servicetest.Postgres(t))
	_, err := pool.Exec(t.Context(), "-- name: LatestPosts :many\n/* why */ select id from posts where id < $1", 42)
	require.NoError(t, err)
	span := r.only("LatestPosts")
	require.False(t, span.Parent.IsValid(), "work without a span around it is traced too")
	got := attributes(span.Attributes)
	require.Equal(t, "postgresql", got[semconv.DBSystemNameKey])
	require.Equal(t, "SELECT", got[semconv.DBOperationNameKey])
	require.Equal(t, "LatestPosts", got[semconv.DBQuerySummaryKey])
	require.Equal(t, "127.0.0.1", got[semconv.ServerAddressKey])
	require.EqualValues(t, 1, got[SpanRoundTrips])
	prepare := r.only("PREPARE LatestPosts")
	require.Equal(t, span.SpanContext.SpanID(), prepare.Parent.SpanID())
	require.EqualValues(t, 1, attributes(prepare.Attributes)[SpanRoundTrips])
	require.EqualValues(t, 1, r.durations()["SELECT"])
}

func TestNothingOfAStatementIsExported(t *testing.T) {
	t.Parallel()
	r := record(t)
	pool := newPool(t, r, servicetest.Postgres(t))
	_, err := pool.Exec(t.Context(), "SELECT 'secret', $1::text", "secret")
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), "SELECT 'secret'::int")
	require.ErrorContains(t, err, "secret", "the caller is given the server's own words")
	batch := &pgx.Batch{}
	batch.Queue("SELECT $1::text", "secret")
	batch.Queue("SELECT 'secret'::int")
	require.Error(t, pool.SendBatch(t.Context(), batch).Close())

	exported := r.everything()
	require.Contains(t, exported, "22P02", "the SQLSTATE says enough")
	require.NotContains(t, exported, "secret")
}

func TestPostgresFaultIsItsState(t *testing.T) {
	t.Parallel()
	r := record(t)
	pool := newPool(t, r, servicetest.Postgres(t))
	_, err := pool.Exec(t.Context(), "SELECT 1/0")
	require.Error(t, err)
	failed := r.only("SELECT")
	require.Equal(t, codes.Error, failed.Status.Code)
	require.Equal(t, "22012", attributes(failed.Attributes)[semconv.DBResponseStatusCodeKey])

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = pool.Exec(ctx, "-- name: Slow :exec\nSELECT pg_sleep(60)")
	require.Error(t, err)
	slow := attributes(r.only("Slow").Attributes)
	require.Equal(t, "timeout", slow[semconv.ErrorTypeKey])
	require.EqualValues(t, 0, slow[SpanRoundTrips], "nobody heard the answer")
}

func TestPostgresWorkIsChargedToItsTally(t *testing.T) {
	t.Parallel()
	r := record(t)
	pool := newPool(t, r, servicetest.Postgres(t), func(c *pgxpool.Config) {
		c.MaxConns = 1
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Prepare(ctx, "one", "SELECT 1")
			return err
		}
	})
	tally := roundtrips.New("GET /posts/trending")
	tally.SetStrategy("preload")
	ctx := roundtrips.With(t.Context(), tally)

	held, err := pool.Acquire(ctx)
	require.NoError(t, err)
	require.Zero(t, tally.Count(roundtrips.Postgres), "the connection and what is prepared on it are nobody's")
	const wait = 200 * time.Millisecond
	time.AfterFunc(wait, held.Release)
	begun := time.Now()
	_, err = pool.Exec(ctx, "SELECT count(*) FROM posts WHERE id < $1", 1)
	require.NoError(t, err)

	require.EqualValues(t, 2, tally.Count(roundtrips.Postgres), "prepare and query")
	require.Positive(t, tally.Time(roundtrips.Postgres))
	require.Less(t, tally.Time(roundtrips.Postgres), time.Since(begun)-wait, "waiting for the pool is not its time")
	require.Equal(t, map[string]int64{
		"postgres GET /posts/trending preload": 2,
		"postgres background":                  2, // connect and its prepare
	}, r.counter(StoreRoundTrips, "store", "operation", "strategy"))
	waited := r.spans(named("ACQUIRE"))
	require.GreaterOrEqual(t, waited[len(waited)-1].EndTime.Sub(waited[len(waited)-1].StartTime), wait/2)

	_, err = pool.Exec(ctx, "SELECT count(*) FROM posts WHERE id < $1", 1)
	require.NoError(t, err)
	require.EqualValues(t, 3, tally.Count(roundtrips.Postgres))
}

func TestStatementsAreNamed(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]statement{
		"select 1":                          {word: "SELECT"},
		"  (SELECT 1)":                      {word: "SELECT"},
		"-- name: A :many\nWITH x AS (":     {word: "WITH", name: "A"},
		"-- name: A":                        {word: "EMPTY", name: "A"},
		"-- a\n/* b */ -- c\n;update x":     {word: "UPDATE"},
		"begin":                             {word: "BEGIN"},
		"-- ping":                           {word: "EMPTY"},
		"":                                  {word: "EMPTY"},
		"/* never closed":                   {word: "EMPTY"},
		"copy t (a) from stdin":             {word: "COPY"},
		"-- name: B :exec\r\nDELETE FROM x": {word: "DELETE", name: "B"},
	} {
		require.Equal(t, want, nameStatement(sql), sql)
	}
}

// The counter must not depend on how the stream is cut into reads.
func TestReadyForQueryIsFoundAcrossReads(t *testing.T) {
	t.Parallel()
	message := func(kind byte, body string) []byte {
		b := binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body)))
		return append(b, body...)
	}
	stream := bytes.Join([][]byte{
		message('R', "\x00\x00\x00\x00"), message('Z', "I"), message('D', "ZZZZZ\x00\x00\x00\x05Z"), message('1', ""),
		message('Z', "T"), message('Z', "I"),
	}, nil)
	for size := 1; size <= len(stream); size++ {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			t.Parallel()
			c := answers{wire: &wire{}}
			for b := stream; len(b) > 0; {
				n := min(size, len(b))
				c.follow(b[:n])
				b = b[n:]
			}
			require.EqualValues(t, 3, c.ready.Load())
		})
	}
}
