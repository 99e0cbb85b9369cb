package buffer

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Options fixes what a family of buffers is for and how it behaves. Name and Apply are required. Every other zero value
// stands for the default that its comment states. Durations are at least a millisecond.
type Options[ID id] struct {
	// Name identifies the family in Redis and in telemetry. Families of the same namespace and name on other replicas are
	// the same. A family flushes all of its buffers, so each family needs a name of its own.
	Name string

	// Namespace begins every key in Redis. It keeps services and environments that share a Redis apart. Defaults to
	// "default".
	Namespace string

	// Apply does to the database what the ids stand for, in the transaction that also records their generation: both are
	// committed, or neither. The ids are distinct and in order. An id may come again in a later generation, so what has
	// been done must be left as it is. An error leaves the generation in Redis; it is tried again.
	Apply func(ctx context.Context, tx pgx.Tx, g Generation, ids []ID) (applied int64, err error)

	// ApplyAll is Apply for several generations of the buffers that Run flushes by size and age, in one transaction. The
	// ids are those of all of them. Defaults to Apply for each.
	ApplyAll func(ctx context.Context, tx pgx.Tx, generations []Generation, ids []ID) (applied int64, err error)

	// Ownership says, of buffers with ids that Run has found and that are not its own, what to do with them. A name that
	// it leaves out is Unowned. It is asked at most every five seconds, and of a buffer to which nothing was added for so
	// long. Until it has answered, buffers are left as they are. Defaults to all being Unowned.
	Ownership func(ctx context.Context, names []string) (map[string]Ownership, error)

	// FlushSize is how many ids make a generation, which is flushed at once: about the most that one transaction changes.
	// One Add can exceed it by 1,000 ids. Defaults to 50,000.
	FlushSize int64

	// MaxItems is how many ids one buffer may hold, within one FlushSize. Beyond that Add returns ErrFull. An id of 8
	// digits takes about 45 bytes of Redis. Defaults to 1,000,000.
	MaxItems int64

	// FlushAge is how long Run lets an id wait for others. Longer means fewer round-trips for the same stream of ids, and
	// a database that is behind by so much. Defaults to one second.
	FlushAge time.Duration

	// FlushTimeout is the deadline of one flush. Defaults to 30 seconds.
	FlushTimeout time.Duration

	// IdleTimeout is how long a flusher may stand still in its transaction until Postgres ends that, and so how long one
	// that is paused holds its locks. Defaults to FlushTimeout.
	IdleTimeout time.Duration

	// Lease is how long a flusher that died delays its generation. A living one extends its lease every third of it.
	// Defaults to five seconds.
	Lease time.Duration

	// Producers is how many traces that its ids are from a generation remembers, the first ones. Its flush links to them.
	// Defaults to 32.
	Producers int

	// Label returns the `buffer` attribute of a buffer's telemetry, one of few words. Defaults to the family's Name.
	Label func(buffer string) string

	// Detach prepares the context of what Run does, for example by giving it a tally of its own. Defaults to leaving it
	// as it is.
	Detach func(context.Context) context.Context

	// TracerProvider and MeterProvider default to the global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider

	// reached is called at each point of the protocol at which a flusher may die. Tests kill it there.
	reached func(point)
	// forgetAfter is how long a buffer that is empty stays in the index. Tests have less time.
	forgetAfter time.Duration
	// orphanAfter is how long nothing was added to a buffer before Run asks whose it is, and how often Run asks.
	orphanAfter time.Duration
}

// point is a step of the protocol that has just been done.
type point string

const (
	pointAdded         point = "added"
	pointCut           point = "cut"
	pointClaimed       point = "claimed"
	pointInTransaction point = "in transaction"
	pointCommitted     point = "committed"
	pointAcknowledged  point = "acknowledged"
)

func (o Options[ID]) withDefaults() Options[ID] {
	if faults := o.faults(); len(faults) > 0 {
		panic(fmt.Sprintf("buffer: the Options of %q cannot work: %s", o.Name, strings.Join(faults, "; ")))
	}
	defaultTo(&o.Namespace, "default")
	defaultTo(&o.FlushSize, 50_000)
	defaultTo(&o.MaxItems, 1_000_000)
	defaultTo(&o.FlushAge, time.Second)
	defaultTo(&o.FlushTimeout, 30*time.Second)
	defaultTo(&o.IdleTimeout, o.FlushTimeout)
	defaultTo(&o.Lease, 5*time.Second)
	defaultTo(&o.Producers, 32)
	defaultTo(&o.forgetAfter, forgetAfter)
	defaultTo(&o.orphanAfter, orphanAfter)
	if o.Label == nil {
		o.Label = func(string) string { return o.Name }
	}
	if o.Detach == nil {
		o.Detach = func(ctx context.Context) context.Context { return ctx }
	}
	if o.TracerProvider == nil {
		o.TracerProvider = otel.GetTracerProvider()
	}
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	if o.reached == nil {
		o.reached = func(point) {}
	}
	return o
}

// faults says which options cannot work, with their values.
func (o Options[ID]) faults() (faults []string) {
	unless := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	unless(o.Name != "", "Name is empty")
	unless(o.Apply != nil, "Apply is nil")
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"FlushAge", o.FlushAge}, {"FlushTimeout", o.FlushTimeout}, {"IdleTimeout", o.IdleTimeout}, {"Lease", o.Lease}} {
		unless(d.value == 0 || d.value >= time.Millisecond,
			"%s is %s and must be at least 1ms, or 0 for the default", d.name, d.value)
	}
	for _, n := range []struct {
		name  string
		value int64
	}{{"FlushSize", o.FlushSize}, {"MaxItems", o.MaxItems}, {"Producers", int64(o.Producers)}} {
		unless(n.value >= 0, "%s is %d and must be positive, or 0 for the default", n.name, n.value)
	}
	return faults
}

func defaultTo[T comparable](field *T, value T) {
	var unset T
	if *field == unset {
		*field = value
	}
}
