package ratelimit

import "time"

// At has the limiter decide at that time instead of Redis's.
func (o Options) At(clock func() time.Time) Options {
	o.clock = clock
	return o
}
