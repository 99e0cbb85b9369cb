package main

import (
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

// impatient is how long a replica has for its end, and atMost how long it may take: a constant more, and what a machine
// that is busy with other tests adds.
const (
	impatient = "1s"
	atMost    = 3 * time.Second
)

// leave has the replica end, and returns how it ended.
func (f *fleet) leave() error {
	f.t.Helper()
	began := time.Now()
	err := f.replicas["one"].stop()
	took := time.Since(began)
	f.t.Logf("ended after %v: %v", took, err)
	require.Less(f.t, took, atMost)
	return err
}

// pauseable is a fleet of one replica and its Redis.
func pauseable(t *testing.T, variables map[string]string) (*fleet, *servicetest.RedisServer) {
	t.Helper()
	server := servicetest.Redis(t)
	all := map[string]string{"REDIS_URL": server.URL(), "SHUTDOWN_TIMEOUT": impatient}
	for name, value := range variables {
		all[name] = value
	}
	f := startFleet(t, all, "one")
	f.warm()
	return f, server
}

// warm returns once a replica has all its connections. New ones prepare statements, for which they would wait for the
// locks of these tests.
func (f *fleet) warm() {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		var connected int
		err := f.database.QueryRow(f.t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'nervous' AND state = 'idle'
				AND backend_start < now() - interval '1 second'`).Scan(&connected)
		return err == nil && connected == 8
	}, 20*time.Second, 10*time.Millisecond)
}

func keysOf(t *testing.T, server *servicetest.RedisServer, pattern string) []string {
	t.Helper()
	rdb := redis.NewClient(server.Options())
	defer rdb.Close()
	keys, err := rdb.Keys(t.Context(), pattern).Result()
	require.NoError(t, err)
	return keys
}

// waits returns once so many statements wait for a lock.
func (f *fleet) waits(n int) {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		var waiting int
		err := f.database.QueryRow(f.t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
		return err == nil && waiting == n
	}, 20*time.Second, 10*time.Millisecond)
}

// marked asks a replica what Postgres knows of payments.
func (f *fleet) marked(name string) string {
	a, err := f.ask(name, http.MethodGet, "/payments", "")
	require.NoError(f.t, err)
	return string(a.reply.body)
}

const oneMarked = `"reconciled":1,`

// A fill hangs in Postgres. Its lease would last for as long as the replica lives.
func TestShutdown_FillHangs(t *testing.T) {
	t.Parallel()
	f, server := pauseable(t, map[string]string{
		"TRENDING_TTL": "1s", "TRENDING_TTL_JITTER": "0", "TRENDING_STALE_FOR": "1m", "TRENDING_LEASE": "1m",
	})
	f.trending("one", "lease")
	release := f.hold("LOCK TABLE views IN ACCESS EXCLUSIVE MODE")
	stale := func() bool { return f.trending("one", "lease").result == "stale" }
	require.Eventually(t, stale, 20*time.Second, 10*time.Millisecond)
	f.waits(1)
	require.Len(t, keysOf(t, server, "*:lease:*"), 1)
	require.NoError(t, f.leave())
	require.Empty(t, keysOf(t, server, "*:lease:*"))
	f.waits(0)
	release()
	f.start("two")
	hit := func() bool { return f.trending("two", "lease").result == "hit" }
	require.Eventually(t, hit, 20*time.Second, 10*time.Millisecond)
}

// A flush hangs in Postgres. Its generation is free at once.
func TestShutdown_FlushHangs(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"payments", "buffer_generations"} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			f, server := pauseable(t, map[string]string{"RECONCILE_FLUSH_AGE": "50ms"})
			release := f.hold("LOCK TABLE " + table + " IN ACCESS EXCLUSIVE MODE")
			f.got(http.StatusAccepted, "one", http.MethodPost, "/payments/1/settled", "")
			f.waits(1)
			require.NoError(t, f.leave())
			require.Len(t, keysOf(t, server, "*:buffer:*:gen:*"), 2, "the generation and its manifest")
			require.Empty(t, keysOf(t, server, "*:buffer:*:lease:*"))
			f.waits(0)
			release()
			f.start("two")
			require.Eventually(t, func() bool {
				return len(keysOf(t, server, "*:buffer:*:gen:*")) == 0
			}, 20*time.Second, 10*time.Millisecond)
			require.Contains(t, f.marked("two"), oneMarked)
		})
	}
}

// Requests hang in Postgres: they are cut off, and the process says so.
func TestShutdown_RequestHangs(t *testing.T) {
	t.Parallel()
	f, _ := pauseable(t, nil)
	release := f.hold("LOCK TABLE views IN ACCESS EXCLUSIVE MODE")
	failed := make(chan bool, 2)
	for _, strategy := range []string{"preload", "lease"} {
		go func() {
			a, err := f.ask("one", http.MethodGet, "/posts/trending?strategy="+strategy, "")
			failed <- err != nil || a.status >= http.StatusInternalServerError
		}()
	}
	f.waits(2)
	require.Error(t, f.leave())
	require.True(t, <-failed)
	require.True(t, <-failed)
	require.Contains(t, f.replicas["one"].stderr.String(), "requests were still in flight")
	f.waits(0)
	release()
}

// The collector accepts connections and never answers.
func TestShutdown_CollectorIsDead(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	f, _ := pauseable(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + silent.Addr().String()})
	f.trending("one", "lease")
	_ = f.leave() // what it says about the telemetry that it lost is not the point
}

// Redis hangs, with an event on its way and a flush that waits for it.
func TestShutdown_RedisHangs(t *testing.T) {
	t.Parallel()
	f, server := pauseable(t, map[string]string{"RECONCILE_FLUSH_AGE": "50ms"})
	f.got(http.StatusAccepted, "one", http.MethodPost, "/payments/1/settled", "")
	require.NoError(t, server.Pause())
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_, _ = f.ask("one", http.MethodPost, "/payments/2/settled", "")
	}()
	<-time.After(200 * time.Millisecond) // Redis's silence is the fault itself: nothing tells when a call waits for it
	_ = f.leave()
	<-asked
	require.NoError(t, server.Resume())
	f.start("two")
	require.Eventually(t, func() bool {
		return len(keysOf(t, server, "*:buffer:{reconcile:live}:*")) == 0
	}, 30*time.Second, 10*time.Millisecond)
	require.Regexp(t, `"reconciled":[12],`, f.marked("two"))
}

// Postgres hangs: nothing can be rolled back there, and nothing is waited for.
func TestShutdown_PostgresHangs(t *testing.T) {
	t.Parallel()
	f, server := pauseable(t, map[string]string{"RECONCILE_FLUSH_AGE": "50ms"})
	require.NoError(t, f.replicas["one"].stop())
	database, err := url.Parse(f.variables["DATABASE_URL"])
	require.NoError(t, err)
	proxy := servicetest.NewProxy(t, database.Host)
	database.Host = proxy.Addr()
	f.variables["DATABASE_URL"] = database.String()
	f.start("one")
	proxy.Delay(time.Hour)
	f.got(http.StatusAccepted, "one", http.MethodPost, "/payments/1/settled", "")
	require.Eventually(t, func() bool {
		return len(keysOf(t, server, "*:buffer:*:lease:*")) == 1
	}, 20*time.Second, 10*time.Millisecond)
	_ = f.leave()
	require.Empty(t, keysOf(t, server, "*:buffer:*:lease:*"))
	proxy.Delay(0)
	f.start("two")
	require.Eventually(t, func() bool {
		return len(keysOf(t, server, "*:buffer:*:gen:*")) == 0
	}, 30*time.Second, 10*time.Millisecond)
	require.Contains(t, f.marked("two"), oneMarked)
}
