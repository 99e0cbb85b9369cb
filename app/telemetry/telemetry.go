// Package telemetry turns every call of a store into a span and a counted round-trip, and exports them.
package telemetry

import (
	"context"
	"io"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

// Config is what the environment's OTEL_* variables do not say.
type Config struct {
	// Instance names this replica: the resource's service.instance.id, Prometheus's `instance`.
	Instance string
	// LogWriter receives one JSON object a line. Defaults to io.Discard.
	LogWriter io.Writer
	// LogLevel is the least severe level that is logged, here and over OTLP. Defaults to slog.LevelInfo.
	LogLevel slog.Leveler
}

// Start sets the global tracer, meter and logger providers, the propagator and slog's default logger. shutdown flushes
// them, bounded by its context.
func Start(ctx context.Context, cfg Config) (shutdown func(context.Context) error, err error) {
	return func(context.Context) error { return nil }, nil
}

// RedisOptions sets the options that make every call of a client visible and counted once. Call it before redis.NewClient.
func RedisOptions(o *redis.Options) {}

// Redis instruments a client: call it once, before the client's first command.
func Redis(client redis.UniversalClient) error { return nil }

// RedisScript gives a script the name that its calls carry as db.stored_procedure.name. Call it where the script is
// declared, or in wire.go.
func RedisScript(name string, script *redis.Script) {}

// Postgres instruments the pool that will be made from the configuration: call it before pgxpool.NewWithConfig.
func Postgres(config *pgxpool.Config) error { return nil }

// ObservePostgresPool reports the pool's connections as metrics.
func ObservePostgresPool(pool *pgxpool.Pool) error { return nil }

// ObserveRedisPool reports the client's connections as metrics.
func ObserveRedisPool(client *redis.Client) error { return nil }
