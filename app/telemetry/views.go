package telemetry

import (
	"strings"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

// boundaries are the buckets of each histogram: closest where the question is decided. The SDK's own are meant for
// milliseconds and would put every answer of ours, in seconds, into the first bucket.
var boundaries = map[string][]float64{
	// From a hit in half a millisecond to the naive answer that queues for a minute; 0.2 is the promise for hits.
	"http.server.request.duration": {
		0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5,
		0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 30, 60,
	},
	// From a GET over loopback to the statement time-out.
	"db.client.operation.duration": {
		0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
		1.5, 2, 3, 5, 10, 30,
	},
	"cache.fill.duration": {
		0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 5, 7.5, 10, 20, 30,
	},
	// A waiter may be woken within a millisecond, and may wait as long as a fill takes.
	"cache.lease.wait.duration": {
		0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 5, 7.5, 10, 20, 30,
	},
	// Fresh for ten minutes by default and stale for ten more, so the rest is for other settings.
	"cache.value.age": {
		0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 660, 900, 1200, 1800, 3600,
	},
	// From a denial that is remembered, in a microsecond or two, over one round-trip to the end of the budget.
	"ratelimit.check.duration": {
		0.000001, 0.0000025, 0.000005, 0.00001, 0.000025, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
		0.05, 0.1, 0.25, 0.5, 1, 2.5,
	},
	// Every whole number that a strategy is expected to need has a bucket of its own: 0, 1, 2 and 11.
	"http.server.request.round_trips": {0, 1, 2, 3, 4, 5, 8, 10, 11, 12, 13, 16, 25, 50, 100, 250, 1000},
}

// seconds are the boundaries of any other histogram whose unit is s.
var seconds = []float64{
	0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
}

// view decides how each instrument is aggregated. It is one function and not a list of views, because an instrument
// that two views match is exported twice.
func view(instrument sdkmetric.Instrument) (sdkmetric.Stream, bool) {
	stream := sdkmetric.Stream{
		Name: instrument.Name, Description: instrument.Description, Unit: instrument.Unit,
	}
	if instrument.Kind == sdkmetric.InstrumentKindHistogram {
		bounds, listed := boundaries[instrument.Name]
		if !listed && instrument.Unit == "s" {
			bounds = seconds
		}
		if bounds != nil {
			stream.Aggregation = sdkmetric.AggregationExplicitBucketHistogram{Boundaries: bounds}
		}
	}
	if strings.HasPrefix(instrument.Name, "http.server.") {
		// server.address is the Host header: whatever a caller likes to send would become a series.
		stream.AttributeFilter = attribute.NewDenyKeysFilter("server.address", "server.port")
	}
	return stream, true
}
