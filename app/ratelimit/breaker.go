package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
)

const (
	// breakerTrips is how many failures in a row open the breaker.
	breakerTrips = 5
	// breakerRest is how long it stays open until one check may try again.
	breakerRest = time.Second
)

// breaker is the circuit breaker before Redis: it keeps checks from waiting, each for its whole budget, for a Redis
// that is down, hangs or refuses. Every error is a failure, however it is wrapped, but for redis.Nil and what happened
// after the caller had gone. A call that misses the budget is one failure; its late answer is no event. It is no
// failure if meanwhile another call was answered in time: then this one alone was slow, for example because it had to
// open a connection, and a burst that opens many connections does not open the circuit.
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
		IsExcluded:    func(err error) bool { return errors.Is(err, errImpatient) || errors.Is(err, errAlone) },
		IsSuccessful:  func(err error) bool { return err == nil || errors.Is(err, redis.Nil) },
	})}
}

// errImpatient marks what went wrong after the caller had gone: that says nothing about Redis.
var errImpatient = errors.New("the caller has gone")

// errAlone is errBudget where other calls are answered in time.
var errAlone = fmt.Errorf("%w, and answered other calls in time", errBudget)

// do calls Redis, or returns gobreaker's error without a call.
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

// ended is why the caller no longer waits, or nil. It goes by the clock too: a timer of the same deadline may fire a
// moment before the context's.
func ended(ctx context.Context) error {
	if deadline, has := ctx.Deadline(); has && ctx.Err() == nil && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}
