package ratelimit

import (
	"context"
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"
)

const (
	// breakerTrips is how many failures in a row open the breaker.
	breakerTrips = 5
	// breakerRest is how long it stays open until one check may try again.
	breakerRest = time.Second
)

// breaker keeps checks from waiting, each for its whole budget, on a Redis that is down or hangs.
type breaker struct {
	circuit *gobreaker.CircuitBreaker[any]
}

func newBreaker(changed func(gobreaker.State)) breaker {
	changed(gobreaker.StateClosed)
	return breaker{gobreaker.NewCircuitBreaker[any](gobreaker.Settings{
		Name:          "ratelimit",
		Timeout:       breakerRest,
		ReadyToTrip:   func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= breakerTrips },
		OnStateChange: func(_ string, _, to gobreaker.State) { changed(to) },
		IsExcluded:    func(err error) bool { return errors.Is(err, errImpatient) },
	})}
}

// errImpatient marks what went wrong once the caller had gone: that says nothing about Redis.
var errImpatient = errors.New("the caller has gone")

// do calls Redis, or returns gobreaker's error without doing so.
func (b breaker) do(ctx context.Context, call func() error) error {
	_, err := b.circuit.Execute(func() (any, error) {
		err := call()
		if err != nil && ended(ctx) != nil {
			err = errors.Join(err, errImpatient)
		}
		return nil, err
	})
	return err
}

// ended is why the caller no longer waits, or nil. It goes by the clock too: a connection knows the same deadline, and
// may give up a moment before the context does.
func ended(ctx context.Context) error {
	if deadline, has := ctx.Deadline(); has && ctx.Err() == nil && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}
