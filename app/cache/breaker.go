package cache

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
)

// ErrUnavailable is why Redis was not asked: it has failed several times in a row and is left alone for a moment.
var ErrUnavailable = errors.New("redis is left alone after repeated failures")

const (
	// breakerTrips is how many failures in a row open the breaker.
	breakerTrips = 5
	// breakerRest is how long it stays open until one request may try again.
	breakerRest = time.Second
)

// breaker keeps requests from waiting, each for its whole budget, on a Redis that is down or hangs.
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
		IsSuccessful:  func(err error) bool { return !outOfReach(err) },
		IsExcluded:    func(err error) bool { return errors.Is(err, errImpatient) },
	})}
}

// errImpatient marks what went wrong once the caller had gone: that says nothing about Redis, and a few callers with
// short deadlines must not take it away from everybody else.
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

// outOfReach tells a Redis that cannot be reached, or cannot work, from one that answers no.
func outOfReach(err error) bool {
	if err == nil || errors.Is(err, redis.Nil) {
		return false
	}
	if _, answered := errors.AsType[redis.Error](err); answered {
		return strings.HasPrefix(err.Error(), "LOADING") || strings.HasPrefix(err.Error(), "CLUSTERDOWN") ||
			strings.HasPrefix(err.Error(), "MASTERDOWN")
	}
	return true
}

func timedOut(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
