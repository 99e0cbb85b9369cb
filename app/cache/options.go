package cache

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Options fixes what a cache holds and how it behaves. Name and Load are required. Every other zero value stands for
// the default that its comment states. Durations are from a millisecond to ten years.
type Options[V any] struct {
	// Name identifies this cache in Redis and in telemetry (the `cache` attribute). Caches of the same namespace and name
	// on other replicas are the same cache.
	Name string

	// Namespace begins every key and channel in Redis. It keeps services and environments that share a Redis apart.
	// Defaults to "default".
	Namespace string

	// Version identifies the encoding of values: a cache never reads values of another version. Set it to change the
	// meaning of values without changing their shape. Defaults to a fingerprint of the shape of V (its fields, tags and
	// kinds) and of the codec's name.
	Version string

	// Load computes the value of a key. It runs at most once at a time over all replicas, and not for one caller: its
	// context carries the first caller's values (its trace), but neither its cancellation nor its deadline, only
	// LoadTimeout. An error, a panic or an overrun is one failure for all that wait; ErrNotFound is an answer and is
	// remembered. All callers get the same V: they must not change what it points to.
	Load func(ctx context.Context, key string) (V, error)

	// Codec turns values into bytes and back. Defaults to JSON.
	Codec Codec[V]

	// TTL is how long a value is fresh. Defaults to ten minutes.
	TTL time.Duration

	// Jitter is the largest fraction, from 0 to below 1, by which a TTL is shortened at random. Defaults to 0: none.
	Jitter float64

	// StaleFor is how long past its TTL a value may still be served, marked stale, while it is refreshed. Defaults to 0:
	// a value that has expired is a miss.
	StaleFor time.Duration

	// SoftTimeout is how long a request that has a stale value waits for a fresh one, where the last fill was faster than
	// this; else it does not wait. Defaults to 250 ms; a negative value means that no request waits.
	SoftTimeout time.Duration

	// Lease is how long a leader that died delays the others. A living one extends its lease every third of it.
	// Defaults to three seconds.
	Lease time.Duration

	// LoadTimeout is the deadline of one fill, and so the limit of every wait for one; a caller's own context may end
	// sooner. Defaults to 30 seconds.
	LoadTimeout time.Duration

	// NegativeTTL is how long the answer ErrNotFound of Load is remembered. It is never served stale. Defaults to ten
	// seconds: long enough to stop a flood of requests for a missing value, short enough for a new value to appear soon.
	NegativeTTL time.Duration

	// MaxValueSize is the largest size of an encoded value in bytes; a larger one fails its fill with ErrValueTooLarge.
	// One huge value delays all others on the connection. Defaults to 1 MiB.
	MaxValueSize int

	// LocalTTL keeps a copy in the process for this long at most. A copy saves the round-trip of a hit, and answers as
	// stale while Redis fails. If the message of a deletion is lost, the copy may be served for this long. Defaults to 0:
	// no copies.
	LocalTTL time.Duration

	// LocalSize is the largest number of copies. Defaults to 1,000.
	LocalSize int

	// Bulkhead is how many fills this process runs at a time, over all keys, while Redis is out of reach and cannot
	// spread them over the replicas. Defaults to 4.
	Bulkhead int

	// Cooldown is how long after a failed fill no replica tries again. Defaults to one second.
	Cooldown time.Duration

	// Replica names this process to those that wait for it. Defaults to "".
	Replica string

	// Detach prepares the context of work that outlives the request which caused it, for example by giving it a tally of
	// its own. What it returns must not end with the request. Defaults to context.WithoutCancel.
	Detach func(context.Context) context.Context

	// TracerProvider and MeterProvider default to the global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
}

func (o Options[V]) withDefaults() Options[V] {
	if faults := o.faults(); len(faults) > 0 {
		panic(fmt.Sprintf("cache: the Options of %q cannot work: %s", o.Name, strings.Join(faults, "; ")))
	}
	if o.Codec == nil {
		o.Codec = JSON[V]{}
	}
	defaultTo(&o.Namespace, "default")
	if o.Version == "" {
		o.Version = versionOf(reflect.TypeFor[V](), reflect.TypeOf(o.Codec))
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

// longest bounds durations, so that no sum of some wraps around.
const longest = 10 * 365 * 24 * time.Hour

// faults says which options cannot work, with their values.
func (o Options[V]) faults() (faults []string) {
	unless := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	unless(o.Name != "", "Name is empty")
	unless(o.Load != nil, "Load is nil")
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"TTL", o.TTL}, {"StaleFor", o.StaleFor}, {"Lease", o.Lease}, {"LoadTimeout", o.LoadTimeout},
		{"NegativeTTL", o.NegativeTTL}, {"LocalTTL", o.LocalTTL}, {"Cooldown", o.Cooldown},
	} {
		unless(d.value == 0 || d.value >= time.Millisecond && d.value <= longest,
			"%s is %s and must be from 1ms to %s, or 0 for the default", d.name, d.value, longest)
	}
	unless(o.SoftTimeout <= 0 || o.SoftTimeout >= time.Millisecond,
		"SoftTimeout is %s and must be at least 1ms, 0 for the default, or negative for no wait", o.SoftTimeout)
	unless(o.Jitter >= 0 && o.Jitter < 1, "Jitter is %v and must be from 0 to below 1", o.Jitter)
	for _, n := range []struct {
		name  string
		value int
	}{{"MaxValueSize", o.MaxValueSize}, {"LocalSize", o.LocalSize}, {"Bulkhead", o.Bulkhead}} {
		unless(n.value >= 0, "%s is %d and must be positive, or 0 for the default", n.name, n.value)
	}
	return faults
}

// memory is how long after a fill has begun Redis must keep everything newer, values and tombstones, however soon they
// stop being served. A fill that ends later than this cannot know whether it is the newest.
func (o Options[V]) memory() time.Duration { return o.LoadTimeout + o.Lease }

func defaultTo[T comparable](field *T, value T) {
	var unset T
	if *field == unset {
		*field = value
	}
}
