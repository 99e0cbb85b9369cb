package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"nervous/app/servicetest"
)

// deployment is what is up, and what its parts need to know of each other.
type deployment struct {
	root    string // of the repository
	dir     string // where the parts run, log and keep their data
	scale   string // of the data: small or full
	out     io.Writer
	started time.Time

	at       addresses
	has      installed
	receiver place // where the replicas send their traces: to this program
	exporter place // of Redis's own counts, if there is one
	users    *users

	parts                 *supervisor
	faults                *faults
	databaseURL, redisURL string
}

// path is where a file of the repository is.
func (d *deployment) path(file string) string { return filepath.Join(d.root, file) }

// say tells the person what has been reached, and when.
func (d *deployment) say(format string, arguments ...any) {
	fmt.Fprintf(d.out, "%6.1fs  %s\n", time.Since(d.started).Seconds(), fmt.Sprintf(format, arguments...))
}

// up starts everything, and returns how long it took until three replicas with their data were ready behind the front
// door.
func (d *deployment) up(ctx context.Context) (time.Duration, error) {
	for _, step := range []func(context.Context) error{d.stores, d.watchers, d.data, d.service} {
		if err := step(ctx); err != nil {
			return 0, err
		}
	}
	return time.Since(d.started), nil
}

// collectorForTraces is where the receiver passes traces on to: nowhere, unless there is somebody who measures them.
func (d *deployment) collectorForTraces() string {
	if d.has.collector {
		return d.at.collector.url() + "/v1/traces"
	}
	return ""
}

// stores starts the truth and the memory.
func (d *deployment) stores(ctx context.Context) error {
	log, err := os.Create(d.parts.log("postgres"))
	if err != nil {
		return err
	}
	postgres, err := servicetest.StartPostgres(ctx, servicetest.Options{Settings: postgresSettings, Log: log})
	if err != nil {
		return err
	}
	d.parts.watch(watched{name: "postgres", end: postgres.Stop, gone: postgres.Gone()})
	if d.databaseURL, err = postgres.CreateDatabase(ctx, "nervous", ""); err != nil {
		return err
	}
	if err := d.sql(ctx, "deploy/postgres.sql"); err != nil {
		return err
	}

	if log, err = os.Create(d.parts.log("redis")); err != nil {
		return err
	}
	redis, err := servicetest.StartRedis(ctx, servicetest.Options{Settings: redisSettings, Log: log})
	if err != nil {
		return err
	}
	d.parts.watch(watched{name: "redis", end: redis.Stop, gone: redis.Gone()})
	d.redisURL = redis.URL()
	d.say("Postgres and Redis run: private ones, on ports %d and %d; fsync is on", postgres.Port, redis.Port)
	return nil
}

// sql runs a file of statements, as the container of Postgres does with the same file.
func (d *deployment) sql(ctx context.Context, file string) error {
	statements, err := os.ReadFile(d.path(file))
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, d.databaseURL)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, string(statements)); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// watchers starts what looks on.
func (d *deployment) watchers(ctx context.Context) error {
	if err := d.reserveExporter(); err != nil {
		return err
	}
	prometheus, err := d.prometheus()
	if err != nil {
		return err
	}
	if err := d.parts.start(ctx, prometheus); err != nil {
		return err
	}
	for _, optional := range []struct {
		there bool
		part  func() part
	}{
		{d.has.tempo, d.tempo}, {d.has.loki, d.loki}, {d.has.collector, d.collector}, {d.has.grafana, d.grafana},
		{d.has.redisExporter != "", d.redisExporter},
	} {
		if optional.there {
			if err := d.parts.start(ctx, optional.part()); err != nil {
				return err
			}
		}
	}
	d.say("Prometheus runs")
	if without := d.has.without(); without != "" {
		d.say("left out, because this machine has none: %s", without)
	}
	return nil
}

// data makes the schema and fills it.
func (d *deployment) data(ctx context.Context) error {
	if err := d.parts.run(ctx, d.app("migrate")); err != nil {
		return err
	}
	if err := d.parts.run(ctx, d.app("seed", "-scale", d.scale)); err != nil {
		return err
	}
	d.say("the data is loaded (%s)", d.scale)
	return nil
}

// service starts the replicas, all at once as an orchestrator would, and the front door.
func (d *deployment) service(ctx context.Context) error {
	replicas, starting := errgroup.WithContext(ctx)
	for i := range d.at.replicas {
		replicas.Go(func() error { return d.parts.start(starting, d.replica(i)) })
	}
	if err := replicas.Wait(); err != nil {
		return err
	}
	if err := d.parts.start(ctx, d.frontDoor()); err != nil {
		return err
	}
	d.say("three replicas are ready behind %s", d.at.door.url())
	return nil
}
