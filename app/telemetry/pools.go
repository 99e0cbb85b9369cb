package telemetry

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"
)

// ConnectionWaits is a counter, {wait}: how often nobody's connection was free and one had to be waited for. The
// conventions have only histograms for it, which neither library can fill. Attribute: db.client.connection.pool.name.
const ConnectionWaits = "db.client.connection.waits"

// poolState is what is reported about a pool of connections.
type poolState struct{ idle, used, most, timeouts, waits int64 }

// ObservePostgresPool reports the pool's connections as db.client.connection.{count,max,timeouts} and ConnectionWaits,
// for as long as the process lives. A wait that was given up for whatever reason counts as a timeout.
func ObservePostgresPool(pool *pgxpool.Pool) error {
	return observePool(otel.GetMeterProvider(), "postgres", postgresPoolState(pool))
}

// ObserveRedisPool reports the client's connections in the same way. go-redis keeps a second pool for pipelines; the
// two are added up, and of a Cluster those of all nodes that were ever known. Connections of subscriptions belong to
// none. Call it before the client's first command.
func ObserveRedisPool(client redis.UniversalClient) error {
	return observePool(otel.GetMeterProvider(), "redis", redisPoolState(client))
}

func postgresPoolState(pool *pgxpool.Pool) func() poolState {
	return func() poolState {
		s := pool.Stat()
		return poolState{
			idle: int64(s.IdleConns()), used: int64(s.AcquiredConns()), most: int64(s.MaxConns()),
			timeouts: s.CanceledAcquireCount(), waits: s.EmptyAcquireCount(),
		}
	}
}

func redisPoolState(client redis.UniversalClient) func() poolState {
	width := redisPoolWidth(client)
	return func() poolState {
		s := client.PoolStats()
		main, pipelines := width()
		state := poolState{
			idle: int64(s.IdleConns), used: int64(s.TotalConns) - int64(s.IdleConns),
			most: main, timeouts: int64(s.Timeouts), waits: int64(s.WaitCount),
		}
		if p := s.PipelineStats; p != nil {
			state.idle += int64(p.IdleConns)
			state.used += int64(p.TotalConns) - int64(p.IdleConns)
			state.most += pipelines
			state.timeouts += int64(p.Timeouts)
			state.waits += int64(p.WaitCount)
		}
		return state
	}
}

// redisPoolWidth returns how many connections the pools may have, as of now: each node of a Cluster has its own.
func redisPoolWidth(client redis.UniversalClient) func() (main, pipelines int64) {
	switch client := client.(type) {
	case *redis.Client:
		return func() (int64, int64) {
			return int64(client.Options().PoolSize), int64(client.Options().PipelinePoolSize)
		}
	case *redis.ClusterClient:
		var main, pipelines atomic.Int64
		client.OnNewNode(func(node *redis.Client) {
			main.Add(int64(node.Options().PoolSize))
			pipelines.Add(int64(node.Options().PipelinePoolSize))
		})
		return func() (int64, int64) { return main.Load(), pipelines.Load() }
	}
	return func() (int64, int64) { return 0, 0 }
}

func observePool(provider metric.MeterProvider, name string, look func() poolState) error {
	meter := provider.Meter(scope)
	count, fault1 := dbconv.NewClientConnectionCountObservable(meter)
	most, fault2 := dbconv.NewClientConnectionMaxObservable(meter)
	timeouts, fault3 := dbconv.NewClientConnectionTimeoutsObservable(meter)
	waits, fault4 := meter.Int64ObservableCounter(ConnectionWaits, metric.WithUnit("{wait}"),
		metric.WithDescription("The number of times that a connection had to be waited for"))
	if err := errors.Join(fault1, fault2, fault3, fault4); err != nil {
		return err
	}
	pool := semconv.DBClientConnectionPoolName(name)
	named := metric.WithAttributes(pool)
	idle := metric.WithAttributes(pool, semconv.DBClientConnectionStateIdle)
	used := metric.WithAttributes(pool, semconv.DBClientConnectionStateUsed)
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := look()
		o.ObserveInt64(count.Inst(), s.idle, idle)
		o.ObserveInt64(count.Inst(), s.used, used)
		o.ObserveInt64(most.Inst(), s.most, named)
		o.ObserveInt64(timeouts.Inst(), s.timeouts, named)
		o.ObserveInt64(waits, s.waits, named)
		return nil
	}, count.Inst(), most.Inst(), timeouts.Inst(), waits)
	return err
}
