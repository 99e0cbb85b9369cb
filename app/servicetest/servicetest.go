// Package servicetest gives tests real servers: a Postgres database of their own, with the schema applied, and a Redis
// of their own, which they may kill.
//
//	url := servicetest.Postgres(t)          // an empty, migrated database; what DATABASE_URL takes
//	pool := servicetest.Pool(t)             // the same, connected
//	server := servicetest.Redis(t)          // server.URL() is what REDIS_URL takes
//	client := redis.NewClient(server.Options())
//	server := servicetest.RedisTLS(t)       // the same behind TLS; RedisSocket listens on a Unix socket
//	cluster := servicetest.RedisCluster(t)  // three masters; RedisClusterWithReplicas can fail over, RedisClusterTLS
//	sentinel := servicetest.RedisSentinel(t) // a master, a replica, and three Sentinels that fail over
//	proxy := servicetest.NewProxy(t, addr)  // a network that delays, cuts, and loses replies
//
// All of it is safe in parallel tests, and needs no TestMain. The tests of one package share one Postgres process that
// trades safety for speed (fsync off): a crash of the machine would lose it, and nobody would mind. Each call gets a
// database copied from a migrated template, dropped when the test ends. Outside tests, StartPostgres and StartRedis run
// the same servers with settings of the caller's. What runs a test's own code as a process that it may kill is the
// package replica, beside this one.
//
// A machine without the servers skips the test and says what to install; with CI=true that is a failure instead. When
// this process dies, in whatever way, its servers and their directories go too: see warden.
package servicetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"nervous/app/migrations"
)

// startTimeout is how long a server may take to answer: a hundred times what it takes on an idle machine.
const startTimeout = time.Minute

// shared is the Postgres of this test binary and the name of its migrated template. It is never stopped here: its
// warden does that once the binary has ended.
var shared = sync.OnceValues(func() (*PostgresServer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	server, err := StartPostgres(ctx, Options{Settings: map[string]string{
		"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", // nothing here outlives the test
		"max_connections": "300", // many parallel tests with a pool each
	}})
	if err != nil {
		return nil, err
	}
	url, err := server.CreateDatabase(ctx, template, "")
	if err == nil {
		_, err = migrations.Up(ctx, url)
	}
	if err != nil {
		return nil, errors.Join(err, server.Stop())
	}
	return server, nil
})

const template = "migrated"

var databases atomic.Int64

// Postgres returns the URL of a database with the schema and no rows. It belongs to this test alone and is dropped
// after it.
func Postgres(t testing.TB) string {
	t.Helper()
	return database(t, template)
}

// EmptyPostgres is Postgres without the schema, for who tests how the schema comes about.
func EmptyPostgres(t testing.TB) string {
	t.Helper()
	return database(t, "")
}

func database(t testing.TB, template string) string {
	t.Helper()
	server, err := shared()
	require(t, err)
	name := fmt.Sprintf("test_%d", databases.Add(1))
	url, err := server.CreateDatabase(t.Context(), name, template)
	require(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), startTimeout)
		defer cancel()
		if err := server.DropDatabase(ctx, name); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return url
}

// Pool returns a pool of connections to a database as Postgres gives it; it is closed after the test.
func Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), Postgres(t))
	require(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// Redis starts a Redis that belongs to this test alone and ends with it. It writes nothing to disk.
func Redis(t testing.TB) *RedisServer {
	t.Helper()
	return redisFor(t, func(s *RedisServer) error {
		s.options.Settings = map[string]string{"save": "", "appendonly": "no"}
		return nil
	})
}

func redisFor(t testing.TB, prepare func(*RedisServer) error) *RedisServer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	server, err := startRedis(ctx, Options{}, prepare)
	require(t, err)
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Errorf("stop the test's Redis: %v", err)
		}
	})
	return server
}

// require ends the test when a server could not be had: a skip on a developer's machine that lacks it, and a failure
// for any other reason, or where CI=true promises that everything is run.
func require(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrNotInstalled) && os.Getenv("CI") != "true":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}
