package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"nervous/app/telemetry"
)

// telemetryFlush bounds the last export; what a dead collector does not take by then is lost.
const telemetryFlush = 2 * time.Second

// runServe answers requests until the context ends, then ends gracefully: it stops accepting, finishes what is in
// flight, flushes its telemetry, each within a bound.
func runServe(ctx context.Context, p program, args []string) (err error) {
	if len(args) > 0 {
		fmt.Fprintln(p.stderr, "usage: app serve (it is configured by the environment)")
		return errUsage
	}
	c, err := loadConfig(p.getenv)
	if err != nil {
		return err
	}
	flush, err := telemetry.Start(ctx, telemetry.Config{
		Instance: c.ReplicaID, LogWriter: p.stderr, LogLevel: c.LogLevel,
	})
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), telemetryFlush)
		defer cancel()
		err = errors.Join(err, flush(bounded))
	}()

	s, err := build(context.WithoutCancel(ctx), c)
	if err != nil {
		return err
	}
	check, err := newRedisCheck(s.rdb, c.Redis)
	if err != nil {
		return errors.Join(err, s.close())
	}
	answered, err := check.atStart(ctx)
	if err != nil {
		return errors.Join(err, s.close())
	}
	if !answered {
		s.checkRedisLater = check.later
	}
	listener, err := net.Listen("tcp", c.ListenAddr)
	if err != nil {
		return errors.Join(fmt.Errorf("LISTEN_ADDR %s: %w", c.ListenAddr, err), s.close())
	}
	return errors.Join(s.serve(ctx, listener, c), s.close())
}

// serve returns nil after a graceful end.
func (s *service) serve(ctx context.Context, listener net.Listener, c config) error {
	server := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	slog.InfoContext(ctx, "serving",
		"address", listener.Addr().String(), "replica", c.ReplicaID, "strategy", c.Trending.Strategy)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	// The background work outlasts the requests: those in flight may still be waiting for it.
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return s.trending.Run(background) })
	group.Go(func() error { return s.reconcile.Run(background) })
	group.Go(func() error { return s.limiter.Run(background) })
	if s.checkRedisLater != nil {
		group.Go(func() error { s.checkRedisLater(background); return nil })
	}
	group.Go(func() error {
		<-ctx.Done()
		defer stopBackground()
		s.draining.Store(true)
		slog.InfoContext(ctx, "shutting down", "bound", c.ShutdownTimeout)
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.ShutdownTimeout)
		defer cancel()
		if err := server.Shutdown(bounded); err != nil {
			return errors.Join(fmt.Errorf("requests were still in flight after %s: %w", c.ShutdownTimeout, err), server.Close())
		}
		return nil
	})
	return group.Wait()
}
