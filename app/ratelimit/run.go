package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

const (
	// heartbeatsMissed is how many heartbeats a replica may miss until the others count it as gone.
	heartbeatsMissed = 5
	// leaveBound is how long the message that this replica leaves may take.
	leaveBound = 250 * time.Millisecond
	// unheardMark is the member of the replicas that says when a reset could not be published.
	unheardMark = "\x00unheard"
)

// presence is what this replica and the others know of one another.
type presence struct {
	// replicas is how many were alive when this one last heard.
	replicas atomic.Int64
	// unheard is the last mark that was seen, as Redis wrote it.
	unheard atomic.Value
	// leaving says that no more heartbeats are to be sent, left that Redis knows that this replica has left.
	leaving, left atomic.Bool
}

// Run tells other replicas that this one lives, and hears from them what was reset, until the context ends; then it
// says that this one leaves, within a quarter of a second. It returns nil: while Redis is away, what was last known
// counts.
func (l *Limiter) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		l.beat(ctx)
		return nil
	})
	group.Go(func() error {
		l.listen(ctx)
		return nil
	})
	go l.connect(ctx)
	return group.Wait()
}

// Shutdown waits for the calls whose callers no longer wait, until the context ends; then it cancels them and returns
// the context's error. In either case it says that this replica leaves, within a quarter of a second, unless Run has
// done so. Checks that come later work as before.
func (l *Limiter) Shutdown(ctx context.Context) error {
	l.presence.leaving.Store(true)
	err := l.late.wait(ctx)
	if err != nil {
		err = fmt.Errorf("rate limit: late calls were canceled: %w", err)
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveBound)
	defer cancel()
	l.leave(bounded)
	return err
}

// beat counts the replicas, this one among them, again and again.
func (l *Limiter) beat(ctx context.Context) {
	ticker := time.NewTicker(l.options.Heartbeat)
	defer ticker.Stop()
	for failing := false; ctx.Err() == nil && !l.presence.leaving.Load(); {
		beaten := make(chan error, 1)
		go func() { beaten <- l.heartbeat(context.WithoutCancel(ctx)) }()
		select {
		case err := <-beaten:
			if (err != nil) != failing {
				failing = !failing
				slog.WarnContext(ctx, "rate limit: heartbeat changed", "failing", failing, "error", err)
			}
		case <-ctx.Done():
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveBound)
			defer cancel()
			select {
			case err := <-beaten: // it would enter this replica after it has left
				_ = err // the next one never comes
			case <-bounded.Done():
			}
			l.leave(bounded)
			return
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	l.leave(context.WithoutCancel(ctx))
}

func (l *Limiter) heartbeat(ctx context.Context) error {
	ctx, span := l.tel.startHeartbeat(l.options.Detach(ctx))
	defer span.End()
	ctx, cancel := context.WithTimeout(ctx, max(l.options.Heartbeat, l.options.CallTimeout))
	defer cancel()
	reply, err := l.note(ctx, l.options.Replica)
	l.lost(ctx, err)
	if err != nil {
		recordError(span, err)
		return fmt.Errorf("rate limit: heartbeat: %w", err)
	}
	l.presence.left.Store(false)
	count, _ := reply[0].(int64)
	l.presence.replicas.Store(max(1, count))
	if mark, _ := reply[1].(string); mark != "" && l.presence.unheard.Swap(mark) != mark {
		l.denials.forgetAll()
	}
	return nil
}

// note enters a member among the replicas, and returns how many there are and the mark of the last unheard reset.
func (l *Limiter) note(ctx context.Context, member string) ([]any, error) {
	alive := heartbeatsMissed * l.options.Heartbeat
	reply, err := heartbeatScript.Run(ctx, l.rdb,
		[]string{l.names.replicas}, member, alive.Milliseconds(), unheardMark).Slice()
	if err == nil && len(reply) != 2 {
		err = errNoVerdict
	}
	return reply, err
}

// markUnheard has the other replicas forget what they remember as denied, with their next heartbeat: this one may not
// tell them at once. If it fails, their memory ends with the waits.
func (l *Limiter) markUnheard(ctx context.Context) {
	if _, err := l.note(ctx, unheardMark); err != nil {
		slog.WarnContext(ctx, "rate limit: a reset could be neither published nor marked; "+
			"other replicas deny until the waits end", "error", err)
	}
}

// leave says that this replica is gone. If that fails, the others miss its heartbeats.
func (l *Limiter) leave(ctx context.Context) {
	if l.presence.left.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(l.options.Detach(ctx), leaveBound)
	defer cancel()
	if l.rdb.ZRem(ctx, l.names.replicas, l.options.Replica).Err() == nil {
		l.presence.left.Store(true)
	}
}

const (
	// silence is after how long without a message the subscription is tested.
	silence = 3 * time.Second
	// resubscribe is the pause after a subscription has ended, and refusedPause the one after Redis has refused it: only
	// an administrator can change that.
	resubscribe  = 100 * time.Millisecond
	refusedPause = 10 * time.Second
)

// listen hears of resets elsewhere. What is published while the subscription is down is lost, so with each new one
// everything is forgotten.
func (l *Limiter) listen(ctx context.Context) {
	for {
		ended := make(chan error, 1)
		go func() { ended <- l.subscribe(ctx) }()
		var err error
		select {
		case err = <-ended:
		case <-ctx.Done(): // a connection that is being opened does not end with the context, but by its own bounds
			return
		}
		pause, refused := resubscribe, redis.IsPermissionError(err)
		if refused {
			pause = refusedPause
			if !l.denials.deaf.Swap(true) {
				l.denials.forgetAll()
			}
			l.reduced.set(ctx, subscribe, true, err.Error())
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// subscribe returns when the subscription has ended, with the reason.
func (l *Limiter) subscribe(ctx context.Context) error {
	subscription := l.rdb.Subscribe(ctx)
	// A read from a socket does not end with a context.
	stop := context.AfterFunc(ctx, func() { _ = subscription.Close() })
	defer func() {
		if stop() {
			_ = subscription.Close()
		}
	}()
	if err := subscription.Subscribe(ctx, l.names.resets); err != nil {
		return err
	}
	for tested := false; ; {
		message, err := subscription.ReceiveTimeout(ctx, silence)
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() && !tested {
			tested = true
			err = subscription.Ping(ctx)
			if err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		tested = false
		switch m := message.(type) {
		case *redis.Subscription:
			l.denials.deaf.Store(false)
			l.reduced.set(ctx, subscribe, false, "")
			l.denials.forgetAll()
		case *redis.Message:
			l.denials.forget(m.Payload)
			l.fallback.forget(m.Payload)
		}
	}
}
