package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"nervous/app/telemetry"
)

// counted is what the servers have counted since they started.
type counted struct {
	commands   map[string]int64 // of Redis, by name as spans have it: SCRIPT LOAD
	aside      map[string]int64 // those that only others send
	statements map[string]int64 // of our role, by name
	others     int64            // statements of other roles, and the audit's own
	forgotten  int64            // how often Postgres forgot statements for want of room
}

// same says whether nothing was counted that a replica may have sent.
func (c counted) same(other counted) bool {
	return maps.Equal(c.commands, other.commands) && maps.Equal(c.statements, other.statements)
}

// Commands that no replica sends: those of health checks, of the usual exporter, and of this audit.
var onlyOthersSend = map[string]bool{
	"ECHO": true, "INFO": true, "MONITOR": true, "CONFIG GET": true, "SLOWLOG GET": true, "SLOWLOG LEN": true,
	"LATENCY LATEST": true, "LATENCY HISTOGRAM": true, "CLIENT LIST": true, "CLIENT SETNAME": true, "MEMORY STATS": true,
}

// servers are asked over connections that no hook sees.
type servers struct {
	redis    *redis.Client
	postgres *pgx.Conn
}

func connect(ctx context.Context, o Options) (*servers, error) {
	options, err := redis.ParseURL(o.RedisURL)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	// One connection that stays: each new one would say HELLO, as the replicas' do.
	options.PoolSize, options.PipelinePoolSize, options.DisableIdentity = 1, -1, true
	postgres, err := pgx.Connect(ctx, o.DatabaseURL)
	if err != nil {
		return nil, err
	}
	return &servers{redis.NewClient(options), postgres}, nil
}

func (s *servers) close() error {
	return errors.Join(s.redis.Close(), s.postgres.Close(context.Background()))
}

func (s *servers) count(ctx context.Context) (c counted, err error) {
	if c.commands, c.aside, err = s.countCommands(ctx); err != nil {
		return c, fmt.Errorf("redis: %w", err)
	}
	if err := s.countStatements(ctx, &c); err != nil {
		return c, fmt.Errorf("pg_stat_statements, which must be preloaded and created in this database: %w", err)
	}
	return c, nil
}

// countCommands adds up what was called and what was rejected: a span cannot know that its command came to nothing.
func (s *servers) countCommands(ctx context.Context) (commands, aside map[string]int64, err error) {
	info, err := s.redis.InfoMap(ctx, "commandstats").Result()
	commands, aside = map[string]int64{}, map[string]int64{}
	for key, line := range info["Commandstats"] {
		name := strings.ToUpper(strings.ReplaceAll(strings.TrimPrefix(key, "cmdstat_"), "|", " "))
		counts := commands
		if onlyOthersSend[name] {
			counts = aside
		}
		for field := range strings.SplitSeq(line, ",") {
			if what, number, _ := strings.Cut(field, "="); what == "calls" || what == "rejected_calls" {
				n, fault := strconv.ParseInt(number, 10, 64)
				err = errors.Join(err, fault)
				counts[name] += n
			}
		}
	}
	return commands, aside, err
}

// countStatements counts what succeeded, by name. What a function runs inside is part of its statement.
func (s *servers) countStatements(ctx context.Context, c *counted) error {
	const read = `
SELECT coalesce(query, ''), calls,
       userid = (SELECT oid FROM pg_roles WHERE rolname = current_user),
       (SELECT dealloc FROM pg_stat_statements_info)
FROM pg_stat_statements
WHERE toplevel AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())`
	c.statements = map[string]int64{}
	var query string
	var calls int64
	var ours bool
	rows, err := s.postgres.Query(ctx, read)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, []any{&query, &calls, &ours, &c.forgotten}, func() error {
		if ours && !strings.Contains(query, "pg_stat_statements") {
			c.statements[telemetry.StatementName(query)] += calls
		} else {
			c.others += calls
		}
		return nil
	})
	return err
}
