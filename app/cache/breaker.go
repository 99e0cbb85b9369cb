package cache

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
)

// ErrUnavailable says that Redis was not called, because the circuit breaker is open after repeated failures.
var ErrUnavailable = errors.New("redis is not called: its circuit breaker is open after repeated failures")

const (
	// breakerTrips is how many failures in a row open the breaker.
	breakerTrips = 5
	// breakerRest is how long it stays open until one request may try again.
	breakerRest = time.Second
)

// breaker keeps requests from waiting, each for a whole time-out, on a Redis that is down, hangs or refuses commands.
type breaker struct {
	circuit *gobreaker.CircuitBreaker[any]
}

func newBreaker(name string, changed func(gobreaker.State)) breaker {
	changed(gobreaker.StateClosed)
	return breaker{gobreaker.NewCircuitBreaker[any](gobreaker.Settings{
		Name:          name,
		Timeout:       breakerRest,
		ReadyToTrip:   func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= breakerTrips },
		OnStateChange: func(_ string, _, to gobreaker.State) { changed(to) },
		// Every other error is a failure: a refusal (WRONGPASS, NOPERM, OOM, LOADING) as much as a lost connection.
		IsSuccessful: func(err error) bool { return err == nil || errors.Is(err, redis.Nil) },
		IsExcluded:   func(err error) bool { return errors.Is(err, errImpatient) },
	})}
}

// errImpatient marks an error that came after the caller had gone. It says nothing about Redis: a few callers with
// short deadlines must not open the breaker for all others.
var errImpatient = errors.New("the caller has gone")

// do calls Redis, or returns ErrUnavailable without doing so.
func (b breaker) do(ctx context.Context, call func() error) error {
	_, err := b.circuit.Execute(func() (any, error) {
		err := call()
		if err != nil && ctx.Err() != nil {
			err = errors.Join(err, errImpatient)
		}
		return nil, err
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return ErrUnavailable
	}
	return err
}

func timedOut(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
