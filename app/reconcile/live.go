package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Path is how a live event is on its way to the truth.
type Path string

// The paths: the `outcome` of reconcile.events, beside `refused`.
const (
	// PathBuffered: Redis has it, and it is marked with others.
	PathBuffered Path = "buffered"
	// PathDirect: Redis refused it, and Postgres has it.
	PathDirect Path = "direct"
)

// ErrUnavailable answers an event that neither Redis nor, within its bound, Postgres has taken. It is to be sent again.
var ErrUnavailable = errors.New("neither the buffer nor the database takes the event now")

// liveBuffers are where live events wait. They are several, so that on a Cluster they are on several nodes. The first
// one has the name that it had when it was alone.
var liveBuffers = []string{"live", "live/1", "live/2", "live/3"}

func isLive(buffer string) bool { return slices.Contains(liveBuffers, buffer) }

// Settled takes the events that payments were settled: one round-trip to Redis. An event only says that this payment is
// to be looked at. One that is unknown, disagrees, or was marked before is left as it is; an event may come any number
// of times. After an error, all of them are to be sent again.
func (r *Reconciler) Settled(ctx context.Context, payments ...int64) (Path, error) {
	if len(payments) == 0 {
		return PathBuffered, nil
	}
	refused := r.buffers.AddSpread(ctx, r.live, payments...)
	if refused == nil {
		r.tel.events(ctx, string(PathBuffered), len(payments))
		return PathBuffered, nil
	}
	if err := r.markDirectly(ctx, payments); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		r.tel.events(ctx, "refused", len(payments))
		return "", fmt.Errorf("%w: %w: %w", ErrUnavailable, refused, err)
	}
	r.tel.events(ctx, string(PathDirect), len(payments))
	return PathDirect, nil
}

// markDirectly is a round-trip to Postgres for each call, which is what the buffer is there to spare; so only few at a
// time may do it.
func (r *Reconciler) markDirectly(ctx context.Context, payments []int64) error {
	ctx, cancel := context.WithTimeout(ctx, r.options.DirectWait)
	defer cancel()
	select {
	case r.direct <- struct{}{}:
		defer func() { <-r.direct }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return r.db.within(ctx, r.options.DirectWait, func(ctx context.Context) error {
		_, err := r.db.markLive(ctx, r.db, payments)
		return err
	})
}
