package telemetry

import (
	"errors"

	"go.opentelemetry.io/otel/metric"

	"nervous/app/roundtrips"
)

// wire counts what passes over the connections to a store, whoever sends it: what no hook was told of is in it too. Its
// sums and those of the spans are equal, or else something is called past the instrumentation.
type wire struct {
	calls, roundTrips counts
}

func newWire(provider metric.MeterProvider) (*wire, error) {
	w, meter := &wire{}, provider.Meter(scope)
	return w, errors.Join(
		w.calls.export(meter, WireCalls, "{call}", "Commands that were written to connections", "system", "operation"),
		w.roundTrips.export(meter, WireRoundTrips, "{round_trip}", "Answers that connections waited for", "store", ""),
	)
}

// answered counts a round-trip.
func (w *wire) answered(store roundtrips.Store) { w.roundTrips.add(string(store), "", 1) }
