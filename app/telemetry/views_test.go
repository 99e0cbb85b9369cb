package telemetry

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

func TestBoundariesAscend(t *testing.T) {
	t.Parallel()
	for name, bounds := range boundaries {
		require.True(t, slices.IsSorted(bounds), name)
		require.Len(t, slices.Compact(slices.Clone(bounds)), len(bounds), name)
	}
}

func TestHistogramsUseTheirBoundaries(t *testing.T) {
	t.Parallel()
	r := record(t)
	meter := r.meters.Meter("test")
	for _, name := range []string{"http.server.request.duration", "something.else"} {
		histogram, err := meter.Float64Histogram(name, metric.WithUnit("s"))
		require.NoError(t, err)
		histogram.Record(t.Context(), 0.0004,
			metric.WithAttributes(attribute.String("server.address", "whatever"), attribute.String("http.route", "/")))
	}
	point := func(name string) metricdata.HistogramDataPoint[float64] {
		return r.metrics()[name].Data.(metricdata.Histogram[float64]).DataPoints[0]
	}
	duration := point("http.server.request.duration")
	require.Equal(t, boundaries["http.server.request.duration"], duration.Bounds)
	require.Equal(t, attribute.NewSet(attribute.String("http.route", "/")), duration.Attributes)
	require.EqualValues(t, 1, duration.BucketCounts[0])
	require.Equal(t, seconds, point("something.else").Bounds)
	other := point("something.else").Attributes
	require.Equal(t, 2, other.Len())
}
