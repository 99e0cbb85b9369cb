// Package reconcile compares what the service believes was paid with what the bank says was settled: a payment
// reconciles when the settlement of the same reference agrees in amount and currency. The others are reported by what
// is wrong with them, and never marked.
//
// It uses a write buffer in two ways. A run goes through all pending payments; Strategy says what each way of doing
// that costs. And a payment provider sends an event for each settlement, Settled, which only puts the payment's id into
// the buffer; a flush, on any replica, marks thousands at once.
//
// All strategies make the same promise. What is marked agreed when it was marked: payment and settlement are compared
// under locks. What was pending and agreed in the snapshot with which the run began is marked when the run is done; a
// settlement that is committed later belongs to the next run. The counts of a run are what it has marked, exactly.
//
// A settlement that changes after its payment was marked is queued, and the next run makes that payment pending again.
// Live events can be lost by Redis, see package buffer; a run that is started from time to time marks what was lost,
// see Options.Every.
//
// A run is cut into ranges of at most 25,000 pending payments. Each range is a row with an owner and an epoch, which
// the transaction that marks locks first: the fencing token of M. Kleppmann, "How to do distributed locking" (2016),
// checked by the database that it protects. One process leads a run; the others take ranges that have no owner.
//
// How it fails. A run whose lead dies is taken over by another process within seconds; one whose lead leaves in order
// is free at once. A run that has failed five times in succession without progress says so and why. With Redis away,
// full or read-only, payments are marked in Postgres directly, which is slower and counted; live events are marked
// directly only a few calls at a time, and beyond that refused with ErrUnavailable. With Postgres away, events wait in
// Redis, up to Options.BufferSize, and runs wait to be taken up again.
package reconcile

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"nervous/app/buffer"
	"nervous/app/roundtrips"
)

// Options fixes how payments are reconciled; every zero value stands for the default that its comment states.
type Options struct {
	// Replica names this process to callers that ask which one runs a job. Defaults to "".
	Replica string

	// Namespace begins every key in Redis. It keeps services and environments that share a Redis apart. Defaults to
	// "default".
	Namespace string

	// FlushAge and FlushSize are when live events are flushed: see buffer.Options. FlushSize defaults to 25,000, which is
	// also what a range has.
	FlushAge  time.Duration
	FlushSize int64

	// BufferSize is how many live events wait in Redis at most. Beyond that they are handled as when Redis is away:
	// written to Postgres directly, a few calls at a time, or refused. A run's ranges are smaller. Defaults to 1,000,000.
	BufferSize int64

	// BufferLease is how long a flusher that died holds up its generation: see buffer.Options.
	BufferLease time.Duration

	// AcquireTimeout bounds the wait for a connection of the pool where Postgres allows no further one. Defaults to two
	// seconds.
	AcquireTimeout time.Duration

	// Every is how long after the last complete run the next one is started by itself, by ByItself: one over all replicas,
	// whatever became of others with a limit. Defaults to never.
	Every    time.Duration
	ByItself Strategy

	// CountEvery is how often the payments are counted for the metrics, which reads the whole table. Defaults to never.
	CountEvery time.Duration

	// Silence is after how long without a sign of life a worker counts as dead. One that lives gives three in that time.
	// Defaults to four seconds.
	Silence time.Duration

	// Direct is how many live events this process writes to Postgres at a time when Redis refuses them, and DirectWait
	// how long one waits for its turn and for Postgres. Default to 4 and one second.
	Direct     int
	DirectWait time.Duration
}

func (o Options) withDefaults() Options {
	if o.ByItself == "" {
		o.ByItself = Buffered
	}
	if o.Silence == 0 {
		o.Silence = 4 * time.Second
	}
	if o.FlushSize == 0 {
		o.FlushSize = rangeSize
	}
	if o.BufferSize == 0 {
		o.BufferSize = 1_000_000
	}
	if o.AcquireTimeout == 0 {
		o.AcquireTimeout = 2 * time.Second
	}
	if o.Direct == 0 {
		o.Direct = 4
	}
	if o.DirectWait == 0 {
		o.DirectWait = time.Second
	}
	return o
}

// Reconciler reconciles by any strategy, and takes live events. Its methods are safe for concurrent use.
type Reconciler struct {
	db      *database
	buffers *buffer.Buffers[int64]
	live    []*buffer.Buffer[int64]
	options Options
	tel     *instruments
	// ownedRanges are what this process works on.
	ownedRanges ownedRanges
	// asked is told when a run was started here: this process looks for it at once.
	asked chan struct{}
	// direct holds one token for each live event that is being written to Postgres.
	direct chan struct{}
	// parts is the work of Run. life ends when Shutdown cancels what is left of it.
	parts  sync.WaitGroup
	ending sync.Mutex
	ended  bool
	life   context.Context
	kill   context.CancelFunc
}

// New returns a Reconciler over the payments in Postgres and the buffer in Redis. Run must be running for runs and
// flushes to happen.
func New(pool *pgxpool.Pool, rdb redis.UniversalClient, o Options) *Reconciler {
	o = o.withDefaults()
	life, kill := context.WithCancel(context.Background())
	r := &Reconciler{
		life: life, kill: kill, db: &database{Pool: pool, acquire: o.AcquireTimeout}, options: o, tel: newInstruments(),
		asked: make(chan struct{}, 1),
	}
	r.buffers = buffer.New(rdb, pool, buffer.Options[int64]{
		Name:      "reconcile",
		Namespace: o.Namespace,
		Apply:     r.apply,
		ApplyAll:  r.applyLive,
		Ownership: r.ownership,
		FlushAge:  o.FlushAge,
		FlushSize: r.options.FlushSize,
		MaxItems:  max(1, r.options.BufferSize/int64(len(liveBuffers))),
		Lease:     o.BufferLease,

		FlushTimeout: workTimeout,
		IdleTimeout:  idleTimeout,
		Label: func(name string) string {
			if isLive(name) {
				return "live"
			}
			return "run"
		},
		Detach: func(ctx context.Context) context.Context { return withTally(ctx, "flush live", Buffered) },
	})
	for _, name := range liveBuffers {
		r.live = append(r.live, r.buffers.Open(name))
	}
	r.direct = make(chan struct{}, r.options.Direct)
	return r
}

// withTally gives work that no request pays for a tally of its own.
func withTally(ctx context.Context, operation string, s Strategy) context.Context {
	tally := roundtrips.New(operation)
	tally.SetStrategy(string(s))
	return roundtrips.With(ctx, tally)
}

// Run flushes live events, works on runs that any replica has started, and starts runs by itself, until the context
// ends. Then it begins nothing more, leaves the run that it works on to another replica, and returns; Shutdown waits
// for the end of that. It returns nil: what fails is tried again.
func (r *Reconciler) Run(ctx context.Context) error {
	r.ending.Lock()
	if !r.ended {
		r.parts.Go(func() { r.takeJobs(ctx) })
		r.parts.Go(func() { r.keepSchedule(ctx) })
		r.parts.Go(func() { r.countPayments(ctx) })
	}
	r.ending.Unlock()
	return r.buffers.Run(ctx, r.live...)
}

// handOverTimeout bounds the wait for work that was cancelled.
const handOverTimeout = 500 * time.Millisecond

// Shutdown waits until the flushes that are under way have ended, and until a run that this process worked on is free
// for another replica. When the context ends first, it cancels what is left and returns the context's error: flushes
// are rolled back and their leases released, and a run is free when its worker has been silent for Options.Silence.
// Call it after Run's context has ended.
func (r *Reconciler) Shutdown(ctx context.Context) error {
	r.ending.Lock()
	r.ended = true // a Run that begins now begins nothing
	r.ending.Unlock()
	flushes := make(chan error, 1)
	go func() { flushes <- r.buffers.Shutdown(ctx) }()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.parts.Wait()
	}()
	var cancelled error
	select {
	case <-ended:
	case <-ctx.Done():
		cancelled = ctx.Err()
		r.kill()
		select {
		case <-ended:
		case <-time.After(handOverTimeout):
		}
	}
	return cmp.Or(<-flushes, cancelled)
}

// countPayments reports the truth to the metrics.
func (r *Reconciler) countPayments(ctx context.Context) {
	if r.options.CountEvery == 0 {
		return
	}
	again := time.NewTicker(r.options.CountEvery)
	defer again.Stop()
	for {
		var pending, reconciled int64
		const count = `-- name: reconcile_count
SELECT count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE status = 'reconciled') FROM payments`
		err := r.db.within(withTally(ctx, "count payments", ""), workTimeout, func(ctx context.Context) error {
			return r.db.QueryRow(ctx, count).Scan(&pending, &reconciled)
		})
		if err == nil { // else the metric is as old as the last answer
			r.tel.counted(ctx, pending, reconciled)
		}
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}
