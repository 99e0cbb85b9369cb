package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/app/servicetest/otlp"
)

// The mark is there before the harm is done, or the region on the graphs would begin too late.
func TestAFaultIsMarkedFromItsBeginningToItsEnd(t *testing.T) {
	t.Parallel()
	received := otlp.Receive(t)
	faults, err := newFaults(t.Context(), received.URL()+"/v1/metrics")
	require.NoError(t, err)
	t.Cleanup(func() { faults.close(t.Context()) })

	marks := func() map[string]float64 {
		values := map[string]float64{}
		for _, p := range received.Points(metricFault) {
			values[p.Attributes["fault"]] = p.Value
		}
		return values
	}
	end := faults.begin(t.Context(), "kill -9 of app-2")
	require.Equal(t, map[string]float64{"kill -9 of app-2": 1}, marks())
	end()
	require.Equal(t, map[string]float64{"kill -9 of app-2": 0}, marks())
}
