package telemetry

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// counts are numbers that only grow, told apart by a system and an operation. They can be read at any moment, which the
// SDK's own counters cannot, and to add to one costs an atomic addition. It is safe for concurrent use.
type counts struct{ memo memo[label, *atomic.Int64] }

type label struct{ system, operation string }

func (c *counts) add(system, operation string, n int64) { c.of(system, operation).Add(n) }

// of is for who adds to the same one again and again.
func (c *counts) of(system, operation string) *atomic.Int64 {
	return c.memo.get(label{system, operation}, func(label) *atomic.Int64 { return new(atomic.Int64) })
}

// all reads each once.
func (c *counts) all() map[label]int64 {
	read := map[label]int64{}
	if known := c.memo.known.Load(); known != nil {
		for of, n := range *known {
			read[of] = n.Load()
		}
	}
	return read
}

// export makes a metric of the counts: a counter whose attributes have the given names.
func (c *counts) export(meter metric.Meter, name, unit, description, system, operation string) error {
	attributes := func(of label) []metric.ObserveOption {
		known := appendKnown(nil, attribute.Key(system), of.system)
		known = appendKnown(known, attribute.Key(operation), of.operation)
		return []metric.ObserveOption{metric.WithAttributeSet(attribute.NewSet(known...))}
	}
	counter, fault := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
	var options memo[label, []metric.ObserveOption]
	// Registered apart from the instrument: a second one of the same name is the first one, and loses its callbacks.
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for of, n := range c.all() {
			o.ObserveInt64(counter, n, options.get(of, attributes)...)
		}
		return nil
	}, counter)
	return errors.Join(fault, err)
}
