package cache_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"go.opentelemetry.io/otel/trace"

	"nervous/app/cache"
	"nervous/app/servicetest"
	"nervous/app/servicetest/replica"
)

func TestMain(m *testing.M) {
	logging.Disable() // go-redis reports every fault that we inject
	replica.Serve(newService)
	servicetest.Parallel(6)
	m.Run()
}

// settings are a replica's: where Redis is, what the cache's options are, and how its loader behaves.
type settings struct {
	Replica string
	Redis   []string
	Cluster bool
	// Certificate is the file that verifies Redis, if it speaks TLS.
	Certificate string
	// Client is how Redis knows this replica's connections.
	Client string
	// User and Password are the ACL user's; empty for the default user.
	User, Password string
	// Through maps the address of a Redis node to that of the proxy by which this replica reaches it.
	Through map[string]string
	// dialed wraps the connections of a client within the test.
	dialed func(net.Conn) net.Conn

	TTL, StaleFor, SoftTimeout, Lease, LoadTimeout, Cooldown, NegativeTTL, LocalTTL time.Duration
	// RedisTimeout is the budget of one command. It is generous, unless the test says otherwise: a machine that is busy
	// with other tests is not the fault that a test is about.
	RedisTimeout time.Duration

	MaxValueSize, Bulkhead int

	// Held loaders wait until the test releases them. The others take LoadTime and answer with the time at which they
	// began, unless Database says where to ask for it.
	Held     bool
	LoadTime time.Duration
	Database string
	// Journal is a file to which all replicas add each beginning and end of a fill.
	Journal string
}

// What a service would give a command.
const redisTimeout = 250 * time.Millisecond

func (s settings) client() redis.UniversalClient {
	dialer, timeout := net.Dialer{Timeout: time.Second}, cmp.Or(s.RedisTimeout, 5*time.Second)
	options := &redis.UniversalOptions{
		Addrs: s.Redis, IsClusterMode: s.Cluster, ClientName: s.Client, Username: s.User, Password: s.Password,
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		ReadTimeout: timeout, WriteTimeout: timeout, PoolSize: 50,
		Dialer: func(ctx context.Context, network, address string) (net.Conn, error) {
			if proxy, ok := s.Through[address]; ok {
				address = proxy
			}
			conn, err := dialer.DialContext(ctx, network, address)
			if err == nil && s.dialed != nil {
				conn = s.dialed(conn)
			}
			return conn, err
		},
	}
	if s.Certificate != "" {
		certificate, err := os.ReadFile(s.Certificate)
		if err != nil {
			panic(err)
		}
		roots, inner := x509.NewCertPool(), options.Dialer
		roots.AppendCertsFromPEM(certificate)
		config := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
		// go-redis leaves TLS to a dialer of one's own.
		options.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := inner(ctx, network, address)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, dialer.Timeout)
			defer cancel()
			secure := tls.Client(conn, config)
			if err := secure.HandshakeContext(ctx); err != nil {
				return nil, errors.Join(err, conn.Close())
			}
			return secure, nil
		}
	}
	return redis.NewUniversalClient(options)
}

// newService is a small service around one cache.
func newService(s settings, seen *replica.Telemetry) any {
	r := &service{settings: s, begun: make(chan struct{}, 1000), releases: make(chan Load, 1000)}
	if s.Database != "" {
		pool, err := pgxpool.New(context.Background(), s.Database)
		if err != nil {
			panic(err)
		}
		r.pool = pool
	}
	if s.Journal != "" {
		journal, err := os.OpenFile(s.Journal, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		r.journal = journal
	}
	r.rdb = s.client()
	r.cache = cache.New(r.rdb, cache.Options[string]{
		Name: "test", Replica: s.Replica, Load: r.load,
		TTL: s.TTL, StaleFor: s.StaleFor, SoftTimeout: s.SoftTimeout, Lease: s.Lease,
		LoadTimeout: s.LoadTimeout, Cooldown: s.Cooldown, NegativeTTL: s.NegativeTTL, LocalTTL: s.LocalTTL,
		MaxValueSize: s.MaxValueSize, Bulkhead: s.Bulkhead,
		TracerProvider: seen.TracerProvider, MeterProvider: seen.MeterProvider,
	})
	go func() { _ = r.cache.Run(context.Background()) }()
	return r
}

// service is what the test can ask of a replica; net/rpc prescribes the form of its methods.
type service struct {
	settings settings
	rdb      redis.UniversalClient
	cache    *cache.Cache[string]
	pool     *pgxpool.Pool
	journal  *os.File

	begun    chan struct{}
	releases chan Load

	mu    sync.Mutex
	fills []Fill
}

// Ask is a number of callers who ask for a key at the same moment.
type Ask struct {
	Key     string
	Callers int
}

// Got is what one of them got. Times are Unix nanoseconds: the processes of one machine share that clock.
type Got struct {
	Value        string
	Result       cache.Result
	Stored       bool
	Err          string
	Began, Ended int64
}

// Load is how a held loader ends.
type Load struct {
	Value  string
	Absent bool
	Err    string
	Panic  string
}

// Fill is a run of the loader; Ended is zero while it goes on.
type Fill struct {
	Key          string
	Began, Ended int64
}

// Get asks the cache as often as the callers say, at once.
func (r *service) Get(a Ask, answers *[]Got) error {
	*answers = make([]Got, a.Callers)
	var callers sync.WaitGroup
	for i := range *answers {
		callers.Go(func() { (*answers)[i] = r.get(a.Key, r.cache.Get) })
	}
	callers.Wait()
	return nil
}

// Refresh has the cache compute the value anew.
func (r *service) Refresh(key string, answer *Got) error {
	*answer = r.get(key, r.cache.Refresh)
	return nil
}

func (r *service) get(key string, how func(context.Context, string) (string, cache.Info, error)) Got {
	got := Got{Began: time.Now().UnixNano()}
	value, info, err := how(context.Background(), key)
	got.Value, got.Result, got.Stored, got.Ended = value, info.Result, info.Stored, time.Now().UnixNano()
	if err != nil {
		got.Err = err.Error()
	}
	return got
}

// Delete has the cache forget the key.
func (r *service) Delete(key string, _ *struct{}) error {
	return r.cache.Delete(context.Background(), key)
}

// Started answers once for each run of the loader.
func (r *service) Started(struct{}, *struct{}) error {
	<-r.begun
	return nil
}

// Release ends one held run.
func (r *service) Release(l Load, _ *struct{}) error {
	r.releases <- l
	return nil
}

// Fills lists the runs of the loader.
func (r *service) Fills(_ struct{}, fills *[]Fill) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	*fills = append(*fills, r.fills...)
	return nil
}

// JournalEntry is the beginning of a fill, or its end.
type JournalEntry struct {
	Replica string
	Run     int
	// Trace is that of the request, or refresh, that asked for the lease.
	Trace string
	Fill
}

func (r *service) load(ctx context.Context, key string) (value string, err error) {
	began := time.Now().UnixNano()
	r.mu.Lock()
	number := len(r.fills)
	r.fills = append(r.fills, Fill{Key: key, Began: began})
	r.mu.Unlock()
	r.write(ctx, number)
	defer func() {
		r.mu.Lock()
		r.fills[number].Ended = time.Now().UnixNano()
		r.mu.Unlock()
		r.write(ctx, number)
	}()
	r.begun <- struct{}{}
	switch {
	case r.settings.Held:
		return (<-r.releases).end()
	case r.pool != nil:
		err := r.pool.QueryRow(ctx, "SELECT name FROM users WHERE id = 1").Scan(&value)
		return value, err
	}
	time.Sleep(r.settings.LoadTime) // the work: it takes this long
	return fmt.Sprint(began), nil
}

// write adds a fill to the journal, in one piece, as files that are appended to allow.
func (r *service) write(ctx context.Context, number int) {
	if r.journal == nil {
		return
	}
	r.mu.Lock()
	e := JournalEntry{r.settings.Replica, number, trace.SpanContextFromContext(ctx).TraceID().String(), r.fills[number]}
	r.mu.Unlock()
	line, err := json.Marshal(e)
	if err == nil {
		_, err = r.journal.Write(append(line, '\n'))
	}
	if err != nil {
		panic(err)
	}
}

func (l Load) end() (string, error) {
	switch {
	case l.Panic != "":
		panic(l.Panic)
	case l.Err != "":
		return "", errors.New(l.Err)
	case l.Absent:
		return "", cache.ErrNotFound
	}
	return l.Value, nil
}
