package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// endGrace bounds what is still done when SHUTDOWN_TIMEOUT is over: closing the stores, and the last telemetry.
const endGrace = 250 * time.Millisecond

// shutDown ends the service within SHUTDOWN_TIMEOUT, and a small constant where a store hangs:
//   - for SHUTDOWN_DELAY, the replica is not ready and goes on answering, once more on each connection. So load
//     balancers turn to others first, and no request meets a connection that is being closed;
//   - until 3/4 of the timeout, requests and background work go on to their end. Runs of reconcile are left to other
//     replicas at once;
//   - then what is left is cancelled: connections of requests are closed, queries cancelled, transactions rolled back,
//     leases released. Another replica can take over at once;
//   - the rest is for the telemetry, see runServe.
func (s *service) shutDown(
	ctx context.Context, server *http.Server, clients *slowClients, c config, b background,
) error {
	timeout := c.ShutdownTimeout
	s.health.drain()
	clients.drain()
	s.endsBy = time.Now().Add(timeout)
	slog.InfoContext(ctx, "shutting down", "delay", c.ShutdownDelay, "timeout", timeout)
	work, cancel := context.WithDeadline(ctx, s.endsBy.Add(-timeout/4))
	defer cancel()

	var parts ends
	parts.start("reconcile", func() error { return s.reconcile.Shutdown(work) })
	<-time.After(c.ShutdownDelay)
	clients.stop()
	err := server.Shutdown(work)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests were still in flight after %s: %w", timeout*3/4, err), server.Close())
		b.cancelRequests()
	}
	b.stop()
	parts.start("trending", func() error { return s.trending.Shutdown(work) })
	parts.start("ratelimit", func() error { return s.limiter.Shutdown(work) })
	parts.start("background", func() error { return b.wait(work) })
	if cancelled := parts.wait(); cancelled != nil {
		// No error of the process: nothing is lost.
		slog.WarnContext(ctx, "background work was cancelled; other replicas take over", "cause", cancelled)
	}
	return err
}

// background is what runs beside the requests.
type background struct {
	cancelRequests func()
	// stop ends the parts that requests in flight may wait for.
	stop func()
	runs *sync.WaitGroup
}

// start runs a part of the service.
func (b background) start(ctx context.Context, run func(context.Context) error) {
	b.runs.Go(func() {
		if err := run(ctx); err != nil {
			slog.ErrorContext(ctx, "a background part has ended", "error", err)
		}
	})
}

// wait returns when all parts have ended. One that is stuck in a call to a store does not hold up the end.
func (b background) wait(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.runs.Wait()
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-ended:
		return nil
	case <-time.After(endGrace):
		return ctx.Err()
	}
}

// ends are the ends of several parts at the same time, so that the bounds of those that hang do not add up.
type ends struct {
	parts sync.WaitGroup
	mu    sync.Mutex
	err   error
}

func (e *ends) start(part string, end func() error) {
	e.parts.Go(func() {
		if err := end(); err != nil {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.err = errors.Join(e.err, fmt.Errorf("%s: %w", part, err))
		}
	})
}

func (e *ends) wait() error {
	e.parts.Wait()
	return e.err
}

// close closes the connections to the stores. A server that hangs keeps it no longer than endGrace.
func (s *service) close() error {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.pool.Close()
	}()
	select {
	case <-closed:
	case <-time.After(endGrace):
		slog.Warn("connections to Postgres were still in use at the end")
	}
	return s.rdb.Close()
}
