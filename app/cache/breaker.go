package cache

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
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
// On a Cluster each master has a circuit of its own: one that is down is no reason not to ask the others.
type breaker struct {
	name    string
	changed func(worst gobreaker.State)
	// node names the master of a key: "" where there is one server.
	node func(ctx context.Context, key string) string
	// lost is told when it is unknown whether Redis has run a call.
	lost func(context.Context)

	mu       sync.Mutex
	circuits map[string]*circuit
}

// circuit is a master's.
type circuit struct {
	*gobreaker.CircuitBreaker[any]
	state gobreaker.State
	used  time.Time
}

// forgetAfter is how long a master that is not called any more keeps its circuit: after a failover the old master's
// would else be reported as open.
const forgetAfter = 10 * time.Second

func newBreaker(name string, changed func(gobreaker.State)) *breaker {
	changed(gobreaker.StateClosed)
	return &breaker{
		name: name, changed: changed,
		node: func(context.Context, string) string { return "" }, lost: func(context.Context) {},
		circuits: map[string]*circuit{},
	}
}

// onCluster gives each master a circuit. After a failover it has the client look for the new master, which would else
// ask the dead one until ClusterStateReloadInterval, a minute, has passed.
func (b *breaker) onCluster(cluster *redis.ClusterClient) {
	b.lost = cluster.ReloadState
	b.node = func(ctx context.Context, key string) string {
		master, err := cluster.MasterForKey(ctx, key) // from the client's memory
		if err != nil {
			return ""
		}
		return master.Options().Addr
	}
}

func (b *breaker) circuit(node string) *circuit {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	known := b.circuits[node]
	if known == nil {
		known = &circuit{state: gobreaker.StateClosed}
		known.CircuitBreaker = gobreaker.NewCircuitBreaker[any](gobreaker.Settings{
			Name:          b.name,
			Timeout:       breakerRest,
			ReadyToTrip:   func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= breakerTrips },
			OnStateChange: func(_ string, _, to gobreaker.State) { b.note(known, to) },
			// Every other error is a failure: a refusal (WRONGPASS, NOPERM, OOM, LOADING) as much as a lost connection.
			IsSuccessful: func(err error) bool { return err == nil || errors.Is(err, redis.Nil) },
			IsExcluded:   func(err error) bool { return errors.Is(err, errImpatient) },
		})
		b.circuits[node] = known
	}
	known.used = now
	for other, c := range b.circuits {
		if now.Sub(c.used) > forgetAfter {
			delete(b.circuits, other)
			b.report()
		}
	}
	return known
}

func (b *breaker) note(of *circuit, to gobreaker.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	of.state = to
	b.report()
}

// report tells of the worst state of all circuits. The caller holds mu.
func (b *breaker) report() {
	worst := gobreaker.StateClosed
	for _, c := range b.circuits {
		worst = max(worst, c.state)
	}
	b.changed(worst)
}

// errImpatient marks an error that came after the caller had gone. It says nothing about Redis: a few callers with
// short deadlines must not open the breaker for all others.
var errImpatient = errors.New("the caller has gone")

// do calls Redis for a key, by its name in Redis, or returns ErrUnavailable without doing so.
func (b *breaker) do(ctx context.Context, key string, call func() error) error {
	return b.at(ctx, b.node(ctx, key), call)
}

func (b *breaker) at(ctx context.Context, node string, call func() error) error {
	_, err := b.circuit(node).Execute(func() (any, error) {
		err := call()
		if lostReply(err) {
			b.lost(ctx)
		}
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

// closed says that the server had closed the connection.
func closed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

func timedOut(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
