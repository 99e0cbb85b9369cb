package cache

import "context"

// Refresh computes the value of key again and returns it. The value's fill began after the call, by Redis's clock.
// Calls at the same moment share fills: at most two on each replica.
func (c *Cache[V]) Refresh(ctx context.Context, key string) (V, Info, error) {
	ctx, span := c.tel.startGet(ctx)
	defer span.End()
	answer := c.refresh(ctx, key)
	c.tel.answered(ctx, span, answer.Info, answer.Err)
	return answer.Value, answer.Info, answer.Err
}

// refresh boards a flight that asks for the lease after the call. Such a flight accepts only values that begin after it
// asks.
func (c *Cache[V]) refresh(ctx context.Context, key string) Answer[V] {
	b := c.join(ctx, key, sinceNow, causeRefresh)
	answer := c.await(ctx, b, false)
	if b.inTime || ctx.Err() != nil {
		return answer
	}
	return c.await(ctx, c.join(ctx, key, sinceNow, causeRefresh), false) // it was started after the one before ended
}
