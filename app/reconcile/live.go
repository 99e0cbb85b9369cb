package reconcile

import (
	"context"
	"errors"
	"fmt"
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

// Settled takes the event that a payment was settled: one round-trip to Redis. It only says that this payment is to be
// looked at. One that is unknown, disagrees, or was marked before is left as it is; the event may come any number of
// times.
func (r *Reconciler) Settled(ctx context.Context, payment int64) (Path, error) {
	refused := r.live.Add(ctx, payment)
	if refused == nil {
		r.tel.event(ctx, string(PathBuffered))
		return PathBuffered, nil
	}
	if err := r.markDirectly(ctx, payment); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		r.tel.event(ctx, "refused")
		return "", fmt.Errorf("%w: %w: %w", ErrUnavailable, refused, err)
	}
	r.tel.event(ctx, string(PathDirect))
	return PathDirect, nil
}

// markDirectly is a round-trip to Postgres for each event, which is what the buffer is there to spare; so only few at a
// time may do it.
func (r *Reconciler) markDirectly(ctx context.Context, payment int64) error {
	ctx, cancel := context.WithTimeout(ctx, r.options.DirectWait)
	defer cancel()
	select {
	case r.direct <- struct{}{}:
		defer func() { <-r.direct }()
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err := r.db.markLive(ctx, r.db, []int64{payment})
	return err
}
