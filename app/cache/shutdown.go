package cache

import (
	"context"
	"time"
)

// releaseTimeout bounds the release of a lease after a fill was cancelled.
const releaseTimeout = 250 * time.Millisecond

// Shutdown waits for fills and refreshes until the context ends. Then it cancels those that are left and releases their
// leases, so that another replica can fill at once, and returns the context's error. A request that needs a fill after
// Shutdown was called gets ErrShutdown. Call it after Run's context has ended.
func (c *Cache[V]) Shutdown(ctx context.Context) error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	done := make(chan struct{})
	go func() {
		c.background.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	c.kill(ErrShutdown)
	select {
	case <-done:
	case <-time.After(2 * releaseTimeout): // a Redis that hangs: the leases expire
	}
	return ctx.Err()
}

// alive returns the context, cancelled when Shutdown cancels what is left.
func (c *Cache[V]) alive(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.life, func() { cancel(ErrShutdown) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}
