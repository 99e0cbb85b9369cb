package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"nervous/app/identity"
	"nervous/app/postgresurl"
	"nervous/app/ratelimit"
	"nervous/app/reconcile"
	"nervous/app/redisurl"
	"nervous/app/trending"
)

// demoSecret is the TOKEN_SECRET of both demo deployments. It is published, so anybody can mint tokens with it.
const demoSecret identity.Secret = "demo-secret-for-127.0.0.1-only--never-use-elsewhere"

// config is everything that the environment decides, one field a variable. Telemetry is the exception: it follows the
// standard OTEL_* variables, which the exporters read themselves.
type config struct {
	// LISTEN_ADDR is where the replica answers, `host:port`. All interfaces by default, because in a container the
	// loopback would be unreachable; the deployments publish it on 127.0.0.1 only.
	ListenAddr string `env:"LISTEN_ADDR" envDefault:":8080"`

	// ADMIN_ADDR is where the replica answers probes (/healthz, /readyz) and, in a demo, shows its ledger. Not where
	// callers come: by default only this machine can reach it. In a container it is `:8091`, which must not be published.
	AdminAddr string `env:"ADMIN_ADDR" envDefault:"127.0.0.1:8091"`

	// REPLICA_ID tells replicas apart in telemetry and in the X-Served-By header. Defaults to the host's name, which in
	// a container is unique.
	ReplicaID string `env:"REPLICA_ID"`

	// REQUEST_TIMEOUT bounds a request; it reaches Postgres and Redis through the context. Above what the naive
	// strategies need when a burst of them shares two cores, because showing that is the point of the demo.
	RequestTimeout time.Duration `env:"REQUEST_TIMEOUT" envDefault:"30s"`

	// SHUTDOWN_TIMEOUT bounds the whole graceful end: the delay, requests, fills, flushes, runs and telemetry. They may go
	// on for three quarters of it. What is left then is cancelled, so that another replica can take over at once, and the
	// rest is for the last telemetry. A store that hangs adds up to a second. Docker kills after 10 s.
	ShutdownTimeout time.Duration `env:"SHUTDOWN_TIMEOUT" envDefault:"8s"`

	// SHUTDOWN_DELAY is the first part of the graceful end: the replica says that it is not ready, and goes on answering
	// until those who send requests have noticed. Longer than the period of their health checks, and than they keep a
	// connection without use. Defaults to a quarter of SHUTDOWN_TIMEOUT.
	ShutdownDelay time.Duration `env:"SHUTDOWN_DELAY"`

	// LOG_LEVEL is debug, info, warn or error.
	LogLevel slog.Level `env:"LOG_LEVEL" envDefault:"info"`

	Database  database
	Redis     redisStore
	Trending  trendingConfig
	Reconcile reconcileConfig
	Tokens    tokenConfig
	RateLimit rateLimitConfig

	// TRUSTED_PROXIES are the networks of the proxies in front, as in `10.0.0.0/8,fd00::/8`. X-Forwarded-For is read only
	// from them. By default there are none, and the peer of the connection is the caller.
	TrustedProxies []netip.Prefix `env:"TRUSTED_PROXIES"`

	// TRUSTED_HOPS is how many proxies a request passes, from 1 to 10. Each appends one address to X-Forwarded-For, so the
	// caller's is the TRUSTED_HOPS-th from the end. TRUSTED_PROXIES alone cannot tell a caller within these networks from
	// one more proxy, and would take what this caller wrote. 1 is the default because a number too high takes a forged
	// address, and one too low the address of a proxy, which only makes callers share a limit.
	TrustedHops int `env:"TRUSTED_HOPS" envDefault:"1"`

	Demo demoSwitch
}

// demoSwitch is the part of the configuration that makes a demonstration of the service.
type demoSwitch struct {
	// DEMO lets callers choose a strategy, forget cached answers, undo what was reconciled or counted, and read the
	// ledger, and accepts the published TOKEN_SECRET. Only callers with a loopback or private address may. Never in
	// production: a naive strategy is a way to overload Postgres from outside.
	On bool `env:"DEMO" envDefault:"false"`

	// ALLOW_STRATEGY_OVERRIDE was its name. It is refused, because a demo by accident is dangerous and so is a production
	// by accident.
	Old string `env:"ALLOW_STRATEGY_OVERRIDE"`
}

func (d *demoSwitch) validate(f *faults) {
	f.unless(d.Old == "", "ALLOW_STRATEGY_OVERRIDE", "is called DEMO now: set DEMO=%s instead", d.Old)
}

// database is the part of the configuration that every command needs.
type database struct {
	// DATABASE_URL is Postgres's connection string.
	URL string `env:"DATABASE_URL,required"`

	// DATABASE_DIRECT_URL is where `migrate` and `seed` connect, because they hold locks of a session. It is for a
	// DATABASE_URL that leads to a pooler in transaction mode, such as PgBouncer. Defaults to DATABASE_URL.
	DirectURL string `env:"DATABASE_DIRECT_URL"`

	// DATABASE_MAX_CONNS bounds the pool of one replica. More connections do not make two cores faster: a stampede that
	// finds a wide pool only waits inside Postgres instead of in front of it. While a replica works on a run it has one
	// more, for its heartbeats. The parameter pool_max_conns of DATABASE_URL sets it too; this variable wins.
	MaxConns int32 `env:"DATABASE_MAX_CONNS" envDefault:"8"`

	// DATABASE_ACQUIRE_TIMEOUT bounds the wait for a free connection; past it the request is shed with 503.
	AcquireTimeout time.Duration `env:"DATABASE_ACQUIRE_TIMEOUT" envDefault:"2s"`

	// DATABASE_STATEMENT_TIMEOUT makes Postgres end a query that nobody may be waiting for any more.
	StatementTimeout time.Duration `env:"DATABASE_STATEMENT_TIMEOUT" envDefault:"30s"`
}

type redisStore struct {
	// REDIS_URL is where Redis is, and how it runs: `redis://[user:password@]host:port/db` is one server, `rediss://` one
	// with TLS, `unix:///path?db=0` one on a socket, `redis+sentinel://host:port/db?master_name=m&addr=host2:port2` what
	// Sentinels name as the master, `redis+cluster://host:port?addr=host2:port2` a Cluster; `rediss+sentinel` and
	// `rediss+cluster` are with TLS. With Sentinel, user and password before the host are the Sentinels'; Redis's are the
	// parameters username and password. At least Redis 7.0, or Valkey.
	URL string `env:"REDIS_URL,required"`

	// REDIS_NAMESPACE begins every key and channel, so that services and environments may share a Redis. Replicas of one
	// service have the same. Defaults to the name of the database in DATABASE_URL.
	Namespace string `env:"REDIS_NAMESPACE"`

	// REDIS_TIMEOUT is the budget of one call: dial, write and read. With 1,000 simultaneous hits on two cores a
	// healthy Redis exceeds 50 ms, so a tighter budget would call it dead when it is merely busy.
	Timeout time.Duration `env:"REDIS_TIMEOUT" envDefault:"250ms"`
}

type trendingConfig struct {
	// TRENDING_STRATEGY is how the list is answered unless a caller may and does choose: n_plus_one, preload, ttl, lease.
	Strategy trending.Strategy `env:"TRENDING_STRATEGY" envDefault:"lease"`

	// TRENDING_TTL is how long an answer counts as fresh.
	TTL time.Duration `env:"TRENDING_TTL" envDefault:"10m"`

	// TRENDING_TTL_JITTER shortens each TTL by a random part of up to this fraction, so that keys written together do
	// not expire together.
	TTLJitter float64 `env:"TRENDING_TTL_JITTER" envDefault:"0.1"`

	// TRENDING_STALE_FOR is how long past its TTL an answer may still be served while somebody refreshes it.
	StaleFor time.Duration `env:"TRENDING_STALE_FOR" envDefault:"10m"`

	// TRENDING_LEASE is how long a dead leader can hold up the others.
	Lease time.Duration `env:"TRENDING_LEASE" envDefault:"3s"`

	// TRENDING_LOAD_TIMEOUT is the deadline of one fill, whoever waits for it. Below REQUEST_TIMEOUT, so that a waiter
	// learns that the fill failed instead of giving up on it.
	LoadTimeout time.Duration `env:"TRENDING_LOAD_TIMEOUT" envDefault:"25s"`
}

type reconcileConfig struct {
	// RECONCILE_STRATEGY is how a run works unless a caller may and does choose: n_plus_one, batched_reads, buffered,
	// single_statement.
	Strategy reconcile.Strategy `env:"RECONCILE_STRATEGY" envDefault:"buffered"`

	// RECONCILE_EVERY is how often a run is started by itself. It is the guarantee behind live events, which a Redis that
	// dies may lose a second of. 0 is never: the demos', because it would do the load script's work.
	Every time.Duration `env:"RECONCILE_EVERY" envDefault:"1h"`

	// RECONCILE_FLUSH_AGE is how long a live event waits for others. Longer means fewer round-trips to Postgres for the
	// same events, and a truth that is later by so much.
	FlushAge time.Duration `env:"RECONCILE_FLUSH_AGE" envDefault:"1s"`

	// RECONCILE_FLUSH_SIZE is how many live events are flushed at once even before that.
	FlushSize int64 `env:"RECONCILE_FLUSH_SIZE" envDefault:"25000"`

	// RECONCILE_BUFFER_SIZE is how many live events wait in Redis at most, about 45 bytes each. Beyond that they are
	// written to Postgres directly, a few calls at a time, or refused, and counted: a backlog must not take all of Redis.
	BufferSize int64 `env:"RECONCILE_BUFFER_SIZE" envDefault:"1000000"`

	// RECONCILE_COUNT_EVERY is how often all payments are counted for the dashboard, which reads the whole table. 0, the
	// default, is never; the demos' table is small.
	CountEvery time.Duration `env:"RECONCILE_COUNT_EVERY" envDefault:"0"`
}

type rateLimitConfig struct {
	// RATELIMIT_LIMIT is how many requests a caller may make in RATELIMIT_WINDOW: a user, or an address without a token.
	Limit  int64         `env:"RATELIMIT_LIMIT" envDefault:"100"`
	Window time.Duration `env:"RATELIMIT_WINDOW" envDefault:"1m"`

	// RATELIMIT_RUNS_LIMIT is how many runs of reconcile a caller may start in RATELIMIT_RUNS_WINDOW, because one keeps
	// Postgres busier than any other request. 0 is no such limit.
	RunsLimit  int64         `env:"RATELIMIT_RUNS_LIMIT" envDefault:"30"`
	RunsWindow time.Duration `env:"RATELIMIT_RUNS_WINDOW" envDefault:"1m"`

	// RATELIMIT_EVENTS_LIMIT is how many requests with live events a caller whose token has the scope `events` may make in
	// RATELIMIT_EVENTS_WINDOW, in place of RATELIMIT_LIMIT; a request may have 1,000 events. 0 is no such limit: they
	// count as any other request.
	EventsLimit  int64         `env:"RATELIMIT_EVENTS_LIMIT" envDefault:"6000"`
	EventsWindow time.Duration `env:"RATELIMIT_EVENTS_WINDOW" envDefault:"1m"`

	// RATELIMIT_STRATEGY is how requests are counted unless a caller may and does choose: fixed_window, exact.
	Strategy ratelimit.Strategy `env:"RATELIMIT_STRATEGY" envDefault:"exact"`

	// RATELIMIT_FALLBACK is what happens while Redis cannot be asked: local (each replica its share), open, closed.
	Fallback ratelimit.Fallback `env:"RATELIMIT_FALLBACK" envDefault:"local"`

	// RATELIMIT_BUDGET is how long Redis may take for a check until it is decided without. Less than REDIS_TIMEOUT,
	// because every request pays it; but one that a healthy Redis exceeds on a busy machine makes the limit a guess.
	Budget time.Duration `env:"RATELIMIT_BUDGET" envDefault:"50ms"`
}

// jobConfig is the part of the configuration that `reconcile` and `reset` need.
type jobConfig struct {
	Database  database
	Redis     redisStore
	Reconcile reconcileConfig
	LogLevel  slog.Level `env:"LOG_LEVEL" envDefault:"warn"`

	// DEMO is what allows `reset`.
	Demo demoSwitch
}

// auditConfig is the part of the configuration that `audit` needs: what the replicas have, so that it asks the same
// servers.
type auditConfig struct {
	Database database
	Redis    redisStore
	Tokens   tokenConfig
}

// tokenConfig is the part of the configuration that `token` needs.
type tokenConfig struct {
	// TOKEN_SECRET signs bearer tokens, and is the same on every replica: `openssl rand -base64 33` makes a good one.
	Secret identity.Secret `env:"TOKEN_SECRET,required"`
}

// loadConfig reads the whole configuration. Its error lists every fault, not only the first.
func loadConfig(getenv func(string) string) (config, error) {
	var c config
	if err := parse(&c, getenv); err != nil {
		return config{}, err
	}
	if c.ReplicaID == "" {
		c.ReplicaID, _ = os.Hostname()
	}
	c.Redis.Namespace = cmp.Or(c.Redis.Namespace, c.Database.name())
	return c, nil
}

// loadDatabaseConfig reads what `migrate` and `seed` need.
func loadDatabaseConfig(getenv func(string) string) (database, error) {
	var d database
	err := parse(&d, getenv)
	return d, err
}

// loadJobConfig reads what `reconcile` and `reset` need.
func loadJobConfig(getenv func(string) string) (jobConfig, error) {
	var j jobConfig
	if err := parse(&j, getenv); err != nil {
		return jobConfig{}, err
	}
	j.Redis.Namespace = cmp.Or(j.Redis.Namespace, j.Database.name())
	return j, nil
}

func (a *auditConfig) validate(f *faults) {
	a.Database.validate(f)
	a.Redis.validate(f)
	a.Tokens.validate(f)
}

// loadAuditConfig reads what `audit` needs.
func loadAuditConfig(getenv func(string) string) (auditConfig, error) {
	var a auditConfig
	err := parse(&a, getenv)
	return a, err
}

// loadTokenConfig reads what `token` needs.
func loadTokenConfig(getenv func(string) string) (tokenConfig, error) {
	var t tokenConfig
	err := parse(&t, getenv)
	return t, err
}

// validate checks what a type cannot say: ranges, and settings that only make sense together.
func (c *config) validate(f *faults) {
	c.Database.validate(f)
	c.Redis.validate(f)
	c.Reconcile.validate(f)
	c.Tokens.validate(f)
	c.RateLimit.validate(f)
	c.Demo.validate(f)
	f.unless(c.Tokens.Secret != demoSecret || c.Demo.On, "TOKEN_SECRET",
		"is the demo's, which is published: choose another, as `openssl rand -base64 33` makes one, or set DEMO=true")
	t := c.Trending
	f.unless(c.TrustedHops >= 1 && c.TrustedHops <= 10, "TRUSTED_HOPS", "is %d and must be from 1 to 10", c.TrustedHops)
	f.unless(len(c.TrustedProxies) > 0 || !f.given["TRUSTED_HOPS"] || f.faulty["TRUSTED_PROXIES"], "TRUSTED_HOPS",
		"has no effect without TRUSTED_PROXIES: set the networks of the proxies, or remove TRUSTED_HOPS")
	f.unless(c.RequestTimeout > 0, "REQUEST_TIMEOUT", "must be positive")
	f.unless(c.ShutdownTimeout > 0, "SHUTDOWN_TIMEOUT", "must be positive")
	if !f.given["SHUTDOWN_DELAY"] {
		c.ShutdownDelay = c.ShutdownTimeout / 4
	}
	f.unless(c.ShutdownDelay >= 0 && c.ShutdownDelay <= c.ShutdownTimeout/2,
		"SHUTDOWN_DELAY", "is %s and must be from 0 to half of SHUTDOWN_TIMEOUT, which is %s",
		c.ShutdownDelay, c.ShutdownTimeout)
	f.unless(c.AdminAddr != c.ListenAddr, "ADMIN_ADDR", "is %q, as LISTEN_ADDR is, and must be another", c.AdminAddr)
	f.unless(t.TTL >= time.Second, "TRENDING_TTL", "must be at least 1s")
	f.unless(t.TTLJitter >= 0 && t.TTLJitter < 1, "TRENDING_TTL_JITTER", "must be from 0 to below 1")
	f.unless(t.StaleFor >= 0, "TRENDING_STALE_FOR", "must not be negative")
	f.unless(t.Lease >= 100*time.Millisecond, "TRENDING_LEASE", "must be at least 100ms")
	f.unless(t.LoadTimeout > 0 && t.LoadTimeout < c.RequestTimeout,
		"TRENDING_LOAD_TIMEOUT", "must be positive and below REQUEST_TIMEOUT")
}

func (j *jobConfig) validate(f *faults) {
	j.Database.validate(f)
	j.Redis.validate(f)
	j.Reconcile.validate(f)
	j.Demo.validate(f)
}

func (r *reconcileConfig) validate(f *faults) {
	f.unless(r.Every == 0 || r.Every >= time.Minute, "RECONCILE_EVERY", "must be 0, which is never, or at least 1m")
	f.unless(r.FlushAge >= 10*time.Millisecond, "RECONCILE_FLUSH_AGE", "must be at least 10ms")
	f.unless(r.FlushSize >= 1, "RECONCILE_FLUSH_SIZE", "must be at least 1")
	f.unless(r.BufferSize >= 1, "RECONCILE_BUFFER_SIZE", "must be at least 1")
	f.unless(r.CountEvery == 0 || r.CountEvery >= time.Second,
		"RECONCILE_COUNT_EVERY", "must be 0, which is never, or at least 1s")
}

func (r *rateLimitConfig) validate(f *faults) {
	f.unless(r.Limit >= 1 && r.Limit <= maxLimit, "RATELIMIT_LIMIT", "must be from 1 to %d", maxLimit)
	f.unless(r.RunsLimit >= 0 && r.RunsLimit <= maxLimit, "RATELIMIT_RUNS_LIMIT", "must be from 0 to %d", maxLimit)
	f.unless(wholeSeconds(r.Window), "RATELIMIT_WINDOW", "must be whole seconds, at least 1s and at most 24h")
	f.unless(r.EventsLimit >= 0 && r.EventsLimit <= maxLimit,
		"RATELIMIT_EVENTS_LIMIT", "must be from 0 to %d", maxLimit)
	f.unless(wholeSeconds(r.EventsWindow),
		"RATELIMIT_EVENTS_WINDOW", "must be whole seconds, at least 1s and at most 24h")
	f.unless(wholeSeconds(r.RunsWindow), "RATELIMIT_RUNS_WINDOW", "must be whole seconds, at least 1s and at most 24h")
	f.unless(r.Budget >= time.Millisecond, "RATELIMIT_BUDGET", "must be at least 1ms")
}

// maxLimit bounds what a caller can occupy in Redis: about 100 kB.
const maxLimit = 10_000

// wholeSeconds are what the RateLimit-Policy header can say.
func wholeSeconds(window time.Duration) bool {
	return window >= time.Second && window <= 24*time.Hour && window%time.Second == 0
}

func (d *database) validate(f *faults) {
	for variable, value := range map[string]string{"DATABASE_URL": d.URL, "DATABASE_DIRECT_URL": d.DirectURL} {
		a, err := postgresurl.Parse(value)
		f.unless(err == nil, variable, "is not a connection string: %v", err)
		if variable == "DATABASE_URL" && err == nil && !f.given["DATABASE_MAX_CONNS"] && a.Has("pool_max_conns") {
			d.MaxConns = a.Pool.MaxConns
		}
	}
	f.unless(d.MaxConns >= 1, "DATABASE_MAX_CONNS", "must be at least 1")
	f.unless(d.AcquireTimeout > 0, "DATABASE_ACQUIRE_TIMEOUT", "must be positive")
	f.unless(d.StatementTimeout >= time.Millisecond, "DATABASE_STATEMENT_TIMEOUT", "must be at least 1ms")
}

// direct is where a session is this client's for as long as it lives.
func (d *database) direct() string { return cmp.Or(d.DirectURL, d.URL) }

// name is the database's; a URL without one means that of the user's name.
func (d *database) name() string {
	c, err := postgresurl.Connection(d.URL, "")
	if err != nil {
		return "" // validate has refused it
	}
	return cmp.Or(c.Database, c.User)
}

func (r *redisStore) validate(f *faults) {
	_, err := redisurl.Parse(r.URL)
	f.unless(err == nil, "REDIS_URL", "is not an address of Redis: %v", err)
	f.unless(r.Timeout > 0, "REDIS_TIMEOUT", "must be positive")
}

func (t *tokenConfig) validate(f *faults) {
	f.unless(len(t.Secret) >= identity.MinSecretBytes,
		"TOKEN_SECRET", "has %d bytes and must have at least %d", len(t.Secret), identity.MinSecretBytes)
}

// faults collects at most one fault a variable, the first: a value that could not be parsed is not also out of range.
// given are the variables that the environment sets; the others have their defaults.
type faults struct {
	lines         []string
	faulty, given map[string]bool
}

func (f *faults) unless(ok bool, variable, format string, args ...any) {
	if ok || f.faulty[variable] {
		return
	}
	f.faulty[variable] = true
	f.lines = append(f.lines, fmt.Sprintf("  - %s %s", variable, fmt.Sprintf(format, args...)))
}

func parse(target interface{ validate(*faults) }, getenv func(string) string) error {
	params, err := env.GetFieldParams(target)
	if err != nil {
		return err
	}
	f := &faults{faulty: map[string]bool{}, given: map[string]bool{}}
	environment := map[string]string{}
	for _, p := range params {
		if v := getenv(p.Key); v != "" {
			environment[p.Key], f.given[p.Key] = v, true
		}
	}
	aggregate, _ := errors.AsType[env.AggregateError](env.ParseWithOptions(target, env.Options{Environment: environment}))
	for _, err := range aggregate.Errors {
		switch e := err.(type) { //nolint:errorlint // these are the library's own, and it does not wrap them
		case env.VarIsNotSetError:
			f.unless(false, e.Key, "is required and not set")
		case env.ParseError:
			variable := variableOf(reflect.TypeOf(target).Elem(), e)
			f.unless(false, variable, "is %q: %v", environment[variable], e.Err)
		default:
			return err
		}
	}
	target.validate(f)
	if len(f.lines) == 0 {
		return nil
	}
	return fmt.Errorf("the environment has %d fault(s):\n%s", len(f.lines), strings.Join(f.lines, "\n"))
}

// variableOf finds the variable behind a field's name and type, which is all that a parse error tells.
func variableOf(structure reflect.Type, e env.ParseError) string {
	for f := range structure.Fields() {
		variable, _, _ := strings.Cut(f.Tag.Get("env"), ",")
		if f.Name == e.Name && f.Type == e.Type && variable != "" {
			return variable
		}
		if variable == "" && f.Type.Kind() == reflect.Struct {
			if found := variableOf(f.Type, e); found != "" {
				return found
			}
		}
	}
	return ""
}
