package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"nervous/app/identity"
	"nervous/app/migrations"
	"nervous/app/servicetest"
)

// bench is one replica between private stores.
type bench struct {
	postgres *servicetest.PostgresServer
	redis    *servicetest.RedisServer
	pool     *pgxpool.Pool
	rdb      *redis.Client
	// sink takes the telemetry, which is part of what the service does.
	sink *httptest.Server
	dir  string
	app  *exec.Cmd
	url  string
	// admin is the URL of its ADMIN_ADDR.
	admin string
}

const (
	secret    = "a secret that opens nothing but this bench"
	namespace = "scale"
)

func newBench(ctx context.Context) (b *bench, err error) {
	b = &bench{}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.dir, err = os.MkdirTemp("", "nervous-scale-"); err != nil {
		return b, err
	}
	b.sink = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return b, fmt.Errorf("find the module: %w", err)
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(b.dir, "app"), "./app")
	build.Dir, build.Stderr = strings.TrimSpace(string(root)), os.Stderr
	if err := build.Run(); err != nil {
		return b, fmt.Errorf("build the service: %w", err)
	}
	b.postgres, err = servicetest.StartPostgres(ctx, servicetest.Options{
		Settings: map[string]string{"shared_buffers": "256MB", "max_wal_size": "4GB"},
	})
	if err != nil {
		return b, err
	}
	b.redis, err = servicetest.StartRedis(ctx, servicetest.Options{Settings: map[string]string{
		"appendonly": "yes", "maxmemory": "256mb", "maxmemory-policy": "volatile-lru",
	}})
	if err != nil {
		return b, err
	}
	if _, err := migrations.Up(ctx, b.postgres.URL("postgres")); err != nil {
		return b, err
	}
	b.rdb = redis.NewClient(b.redis.Options())
	b.pool, err = pgxpool.New(ctx, b.postgres.URL("postgres"))
	return b, err
}

func (b *bench) close() {
	b.stopApp()
	if b.pool != nil {
		b.pool.Close()
	}
	if b.rdb != nil {
		_ = b.rdb.Close()
	}
	if b.redis != nil {
		_ = b.redis.Stop()
	}
	if b.postgres != nil {
		_ = b.postgres.Stop()
	}
	if b.sink != nil {
		b.sink.Close()
	}
	_ = os.RemoveAll(b.dir)
}

// load makes payments, all pending, of which one in a hundred has no settlement.
func (b *bench) load(ctx context.Context, payments int) error {
	fmt.Fprintf(os.Stderr, "loading %d payments\n", payments)
	for _, sql := range []string{
		"TRUNCATE payments, settlements, settlement_changes, reconcile_jobs, reconcile_workers, reconcile_ranges",
		fmt.Sprintf(`INSERT INTO payments (id, reference, amount_minor, currency)
			SELECT n, 'PAY-' || lpad(n::text, 8, '0'), 100 + n, 'EUR' FROM generate_series(1, %d) n`, payments),
		fmt.Sprintf(`INSERT INTO settlements (reference, amount_minor, currency)
			SELECT 'PAY-' || lpad(n::text, 8, '0'), 100 + n, 'EUR' FROM generate_series(1, %d) n
			WHERE n %% 100 <> 80`, payments),
		"VACUUM (ANALYZE) payments, settlements",
		"CHECKPOINT",
	} {
		if _, err := b.pool.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return b.rdb.FlushAll(ctx).Err()
}

// startApp starts a fresh replica, and returns when it is ready.
func (b *bench) startApp(ctx context.Context) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	admin, err := freeAddress()
	if err != nil {
		return err
	}
	b.url, b.admin = "http://"+address, "http://"+admin
	b.app = exec.Command(filepath.Join(b.dir, "app"), "serve") //nolint:noctx // it is stopped in order
	b.app.Env = append(os.Environ(),
		"LISTEN_ADDR="+address, "ADMIN_ADDR="+admin, "DATABASE_URL="+b.postgres.URL("postgres"), "REDIS_URL="+b.redis.URL(),
		"REDIS_NAMESPACE="+namespace, "TOKEN_SECRET="+secret, "DEMO=true", "RECONCILE_EVERY=0",
		"RATELIMIT_LIMIT=10000", "RATELIMIT_EVENTS_LIMIT=10000", "RATELIMIT_BUDGET=250ms", "LOG_LEVEL=warn",
		"OTEL_EXPORTER_OTLP_ENDPOINT="+b.sink.URL, "OTEL_METRIC_EXPORT_INTERVAL=5000",
	)
	b.app.Stderr = os.Stderr
	b.app.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := b.app.Start(); err != nil {
		return err
	}
	return until(ctx, 30*time.Second, 50*time.Millisecond, func() (bool, error) {
		return b.ask(ctx, http.MethodGet, b.admin+"/readyz", nil, nil) == nil, nil
	})
}

func (b *bench) stopApp() {
	if b.app == nil {
		return
	}
	_ = b.app.Process.Signal(syscall.SIGTERM)
	_ = b.app.Wait()
	b.app = nil
}

// until asks until the answer is yes.
func until(ctx context.Context, patience, every time.Duration, is func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(every)
	defer again.Stop()
	for {
		if yes, err := is(); yes || err != nil {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return errors.New("it took longer than " + patience.String())
		}
	}
}

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// call sends a request to the service, and reads the answer.
func (b *bench) call(ctx context.Context, method, path string, body, into any) error {
	return b.ask(ctx, method, b.url+path, body, into)
}

// ask does so as a payment provider that may reconcile.
func (b *bench) ask(ctx context.Context, method, url string, body, into any) error {
	sent := &bytes.Buffer{}
	if body != nil {
		if err := json.NewEncoder(sent).Encode(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, url, sent)
	if err != nil {
		return err
	}
	token, err := identity.New(secret).Mint(
		identity.Caller{User: "provider", Scopes: []string{"events", "reconcile"}}, time.Hour)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: %s: %s", method, url, response.Status, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// dbTrips is how many round-trips to Postgres the replica has made so far, as it reads them off its connections.
func (b *bench) dbTrips(ctx context.Context) (float64, error) {
	var ledger struct {
		RoundTrips map[string]struct{ Wire float64 } `json:"round_trips"`
	}
	err := b.ask(ctx, http.MethodGet, b.admin+"/ledger", nil, &ledger)
	return ledger.RoundTrips["postgres"].Wire, err
}

// peakMB is the most memory that the replica has had.
func (b *bench) peakMB() float64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.app.Process.Pid))
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kb, _ := strconv.ParseFloat(strings.Fields(rest + " 0")[0], 64)
	return kb / 1024
}

// redisMB is what Redis holds now.
func (b *bench) redisMB(ctx context.Context) float64 {
	info, _ := b.rdb.InfoMap(ctx, "memory").Result()
	used, _ := strconv.ParseFloat(info["Memory"]["used_memory"], 64)
	return used / (1 << 20)
}
