package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"golang.org/x/sync/errgroup"

	"nervous/app/telemetry"
)

// runServe answers requests until the context ends. Then it ends within SHUTDOWN_TIMEOUT, see shutDown.
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
	endsBy := func() time.Time { return time.Now().Add(c.ShutdownTimeout / 4) }
	defer func() {
		// What a dead collector does not take by then is lost.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(time.Until(endsBy()), endGrace))
		defer cancel()
		if lost := flush(bounded); lost != nil { // no fault of the service: it has done its work
			otel.Handle(lost)
		}
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
	if s.adminListener, err = net.Listen("tcp", c.AdminAddr); err != nil {
		err = fmt.Errorf("ADMIN_ADDR %s: %w; each process needs its own", c.AdminAddr, err)
		return errors.Join(err, listener.Close(), s.close())
	}
	err = s.serve(ctx, listener, c)
	endsBy = func() time.Time { return s.endsBy }
	return errors.Join(err, s.close())
}

// serve returns nil after a graceful end.
func (s *service) serve(ctx context.Context, listener net.Listener, c config) error {
	requests, cancelRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelRequests()
	clients := newSlowClients(c.RequestTimeout)
	server := clients.server(s.handler)
	server.ErrorLog = slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn)
	server.BaseContext = func(net.Listener) context.Context { return requests }
	s.health.look(ctx)
	slog.InfoContext(ctx, "serving",
		"address", listener.Addr().String(), "replica", c.ReplicaID, "strategy", c.Trending.Strategy)

	bounded := clients.listen(listener)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := server.Serve(bounded)
		if errors.Is(err, http.ErrServerClosed) || clients.ending.Err() != nil {
			return nil
		}
		return fmt.Errorf("serve: %w", err)
	})
	if s.adminListener != nil {
		// It answers probes to the end of the process.
		admin := newSlowClients(c.RequestTimeout).server(s.admin)
		defer admin.Close()
		go func() { _ = admin.Serve(s.adminListener) }()
	}
	// Requests in flight may still wait for what trending and the limiter do, so these outlast the requests.
	behind, stopBehind := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBehind()
	b := background{cancelRequests, stopBehind, &sync.WaitGroup{}}
	b.start(behind, s.trending.Run)
	b.start(behind, s.limiter.Run)
	b.start(behind, s.health.run)
	if s.checkRedisLater != nil {
		b.start(behind, func(ctx context.Context) error { s.checkRedisLater(ctx); return nil })
	}
	b.start(ctx, s.reconcile.Run)
	group.Go(func() error {
		<-ctx.Done()
		return s.shutDown(context.WithoutCancel(ctx), server, clients, c, b)
	})
	return group.Wait()
}
