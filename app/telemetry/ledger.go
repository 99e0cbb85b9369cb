package telemetry

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"nervous/app/roundtrips"
)

// Ledger is what this process can say of its calls to the stores since it started. All of it is counted, nothing is
// sampled: whoever compares it with what the servers counted (package audit) knows whether every call was traced.
type Ledger struct {
	// Replica names the process, and Since tells it from one of the same name before it.
	Replica string    `json:"replica"`
	Since   time.Time `json:"since"`
	// Calls are those that ended spans account for: by system (redis, postgresql), and by operation as TelemetryCalls
	// has it.
	Calls map[string]map[string]int64 `json:"calls"`
	// WireCalls are the same, as they were read off the connections; of Redis only.
	WireCalls map[string]map[string]int64 `json:"wire_calls"`
	// RoundTrips are by store.
	RoundTrips map[roundtrips.Store]RoundTrips `json:"round_trips"`
	Spans      Spans                           `json:"spans"`
}

// RoundTrips are those that ended spans account for, and those that connections saw.
type RoundTrips struct {
	Spans int64 `json:"spans"`
	Wire  int64 `json:"wire"`
}

// Spans are all that ended, of stores or not, and how many of them an exporter has got rid of. The difference waits in
// a queue, or is lost.
type Spans struct {
	Ended    int64 `json:"ended"`
	Exported int64 `json:"exported"`
}

// ReadLedger reads this process's ledger, after it has let what waits be exported, for as long as the context allows.
// The numbers are read one after another: they belong together only if no call was made meanwhile.
func ReadLedger(ctx context.Context) Ledger { return process.read(ctx) }

// process keeps the books of this process, as Start, Redis and Postgres opened them.
var process books

type books struct {
	mu       sync.Mutex
	replica  string
	since    time.Time
	spans    *spanCounter
	exported *countingExporter
	flush    func(context.Context) error
	wires    []*wire
}

// opened notes where the numbers of spans are.
func (b *books) opened(replica string, spans *spanCounter, exported *countingExporter,
	flush func(context.Context) error,
) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.replica, b.since, b.spans, b.exported, b.flush = replica, time.Now(), spans, exported, flush
}

// watch notes where the numbers of connections are.
func (b *books) watch(w *wire) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wires = append(b.wires, w)
}

func (b *books) read(ctx context.Context) Ledger {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := Ledger{
		Replica: b.replica, Since: b.since,
		Calls: map[string]map[string]int64{}, WireCalls: map[string]map[string]int64{},
		RoundTrips: map[roundtrips.Store]RoundTrips{},
	}
	if b.spans == nil { // no spans are made, so none accounts for anything
		return l
	}
	b.letExport(ctx)
	l.Spans = Spans{Ended: b.spans.ended.Load(), Exported: b.exported.spans.Load()}
	addTo(l.Calls, b.spans.calls.all())
	onSpans, onWire := b.spans.roundTrips.all(), map[string]int64{}
	for _, w := range b.wires {
		addTo(l.WireCalls, w.calls.all())
		for store, n := range w.roundTrips.all() {
			onWire[store.system] += n
		}
	}
	for store, system := range map[roundtrips.Store]string{
		roundtrips.Redis: redisSystem, roundtrips.Postgres: semconv.DBSystemNamePostgreSQL.Value.AsString(),
	} {
		l.RoundTrips[store] = RoundTrips{Spans: onSpans[label{system: system}], Wire: onWire[string(store)]}
	}
	return l
}

// exportTimeout is how long an export may take: the default of the batch processor, which bounds it by the same.
const exportTimeout = 30 * time.Second

// letExport returns when what waits has been exported, or the context ends. The export goes on then: one that is cut
// short loses its spans, and who looks for what is lost must not lose it. What it cannot export is not among the
// exported.
func (b *books) letExport(ctx context.Context) {
	unhurried, cancel := context.WithTimeout(context.WithoutCancel(ctx), exportTimeout)
	exported := make(chan struct{})
	go func() {
		defer close(exported)
		defer cancel()
		_ = b.flush(unhurried)
	}()
	select {
	case <-exported:
	case <-ctx.Done():
	}
}

func addTo(sums map[string]map[string]int64, more map[label]int64) {
	for of, n := range more {
		if sums[of.system] == nil {
			sums[of.system] = map[string]int64{}
		}
		sums[of.system][of.operation] += n
	}
}

// countingExporter counts the spans that the exporter behind it has taken.
type countingExporter struct {
	sdktrace.SpanExporter
	spans atomic.Int64
}

// ExportSpans exports a batch.
func (e *countingExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		e.spans.Add(int64(len(spans)))
	}
	return err
}
