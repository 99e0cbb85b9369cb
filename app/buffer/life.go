package buffer

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrShutdown is the error of a flush that was to begin after Shutdown, or that Shutdown has cancelled.
var ErrShutdown = errors.New("the buffers are shut down")

// releaseTimeout bounds the release of a lease after a flush was cancelled.
const releaseTimeout = 250 * time.Millisecond

// lifetime counts the work under way and can cancel it.
type lifetime struct {
	ctx  context.Context
	kill context.CancelCauseFunc

	mu   sync.Mutex
	busy int
	// closing is closed when no more work may begin, idle when there is none left then.
	closing, idle chan struct{}
}

func newLifetime() *lifetime {
	l := &lifetime{closing: make(chan struct{}), idle: make(chan struct{})}
	l.ctx, l.kill = context.WithCancelCause(context.Background())
	return l
}

// begin says whether work may begin. If so, end must follow.
func (l *lifetime) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed() {
		return false
	}
	l.busy++
	return true
}

func (l *lifetime) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
	if l.busy == 0 && l.closed() {
		close(l.idle)
	}
}

func (l *lifetime) closed() bool {
	select {
	case <-l.closing:
		return true
	default:
		return false
	}
}

// bind returns the context, cancelled when what is left is cancelled.
func (l *lifetime) bind(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.ctx, func() { cancel(ErrShutdown) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

func (l *lifetime) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed() {
		close(l.closing)
		if l.busy == 0 {
			close(l.idle)
		}
	}
}

// Shutdown waits for flushes until the context ends. Then it cancels those that are left: their transactions are rolled
// back and their leases released, so that another process can flush the same generations at once; it returns the
// context's error. A flush that would begin after Shutdown was called gets ErrShutdown; Add works as before. Call it
// after Run's context has ended.
func (b *Buffers[ID]) Shutdown(ctx context.Context) error {
	b.life.close()
	select {
	case <-b.life.idle:
		return nil
	default:
	}
	select {
	case <-b.life.idle:
		return nil
	case <-ctx.Done():
	}
	b.life.kill(ErrShutdown)
	select {
	case <-b.life.idle:
	case <-time.After(2 * releaseTimeout): // a Redis that hangs: the leases expire
	}
	return ctx.Err()
}
