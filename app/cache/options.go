package cache

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Options fixes what a cache holds and how it behaves. Name and Load are required; every other zero value stands for
// the default that its comment states.
type Options[V any] struct {
	// Name tells this cache apart in telemetry (the `cache` attribute) and names its Pub/Sub channel. Caches of the same
	// name on other replicas are the same cache.
	Name string

	// Load computes the value of a key. It runs at most once at a time over all replicas, and not for one caller: its
	// context carries the first caller's values (its trace), but neither its cancellation nor its deadline, only
	// LoadTimeout. An error, a panic or an overrun is one failure for all who wait; ErrNotFound is an answer and is
	// remembered. All who ask get the same V: they must not change what it points to.
	Load func(ctx context.Context, key string) (V, error)

	// Codec turns values into bytes and back. Defaults to JSON.
	Codec Codec[V]

	// TTL is how long a value is fresh. Defaults to ten minutes.
	TTL time.Duration

	// Jitter is the largest fraction, from 0 to below 1, by which a TTL is shortened at random. Defaults to none.
	Jitter float64

	// StaleFor is how long past its TTL a value may still be served, marked stale, while it is refreshed. Zero serves
	// none: a value that has expired is a miss.
	StaleFor time.Duration

	// SoftTimeout is how long a request that has a stale value waits for a fresh one. Defaults to 250 ms; negative
	// means not at all.
	SoftTimeout time.Duration

	// Lease is how long a leader that died holds up the others. A living one extends its lease every third of it.
	// Defaults to three seconds.
	Lease time.Duration

	// LoadTimeout is the deadline of one fill, and so the hard limit of every wait for one; a caller's own context may
	// end sooner. Defaults to 30 seconds.
	LoadTimeout time.Duration

	// NegativeTTL is how long it is remembered that Load answered ErrNotFound. Such an answer is never served stale.
	// Defaults to ten seconds: long enough to stop a flood of questions for what is not there, short enough that nobody
	// minds when it appears.
	NegativeTTL time.Duration

	// MaxValueSize is the most that a value may take, encoded, in bytes; a larger one fails its fill with
	// ErrValueTooLarge. One huge value delays everybody behind it on the connection. Defaults to 1 MiB.
	MaxValueSize int

	// LocalTTL keeps a copy in the process for this long at most, which saves the round-trip of a hit and answers while
	// Redis is away. For so long a replica that missed the message of a deletion may serve what was deleted. Defaults to
	// zero: no copies.
	LocalTTL time.Duration

	// LocalSize is how many copies are kept at most. Defaults to 1,000.
	LocalSize int

	// Bulkhead is how many fills this process runs at a time, over all keys, while Redis is out of reach and cannot
	// spread them over the replicas. Defaults to 4.
	Bulkhead int

	// Cooldown is how long after a failed fill nobody tries again. Defaults to one second.
	Cooldown time.Duration

	// Replica names this process to those who wait for it. Defaults to nothing.
	Replica string

	// Detach prepares the context of work that outlives the request which caused it, for example by giving it a tally of
	// its own. What it returns must not end with the request. Defaults to context.WithoutCancel.
	Detach func(context.Context) context.Context

	// TracerProvider and MeterProvider default to the global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
}

func (o Options[V]) withDefaults() Options[V] {
	if o.Name == "" || o.Load == nil {
		panic("cache: Options need a Name and a Load")
	}
	if o.Codec == nil {
		o.Codec = JSON[V]{}
	}
	defaultTo(&o.TTL, 10*time.Minute)
	defaultTo(&o.SoftTimeout, 250*time.Millisecond)
	defaultTo(&o.Lease, 3*time.Second)
	defaultTo(&o.LoadTimeout, 30*time.Second)
	defaultTo(&o.Cooldown, time.Second)
	defaultTo(&o.NegativeTTL, 10*time.Second)
	defaultTo(&o.MaxValueSize, 1<<20)
	defaultTo(&o.LocalSize, 1000)
	defaultTo(&o.Bulkhead, 4)
	if o.Detach == nil {
		o.Detach = context.WithoutCancel
	}
	if o.TracerProvider == nil {
		o.TracerProvider = otel.GetTracerProvider()
	}
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	return o
}

// memory is for how long after a fill has begun Redis must know of whatever is newer, be it a value or a deletion, and
// however soon that stops being served. A fill that ends later than this cannot tell whether it is the newest.
func (o Options[V]) memory() time.Duration { return o.LoadTimeout + o.Lease }

func defaultTo[T comparable](field *T, value T) {
	var unset T
	if *field == unset {
		*field = value
	}
}
