package buffer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// index is a sorted set of the buffers that exist, of all families, by when they were last added to (Unix ms). Recovery
// begins with it: without it, nobody would look for what the process that knew a buffer has left.
const index = "buffers"

// forgetAfter is how long a buffer that is empty stays in the index.
const forgetAfter = time.Minute

// indexed lists the family's buffers in the index by when they were last added to.
func (b *Buffers[ID]) indexed(ctx context.Context) (map[string]float64, error) {
	entries, err := b.rdb.ZRangeWithScores(ctx, index, 0, -1).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("list buffers: %w", err)
	}
	added := map[string]float64{}
	for _, e := range entries {
		if name, ours := strings.CutPrefix(e.Member.(string), b.options.Name+":"); ours {
			added[name] = e.Score
		}
	}
	return added, nil
}

// forget takes a buffer that has been empty for a while from the index.
func (b *Buffer[ID]) forget(ctx context.Context, added float64) error {
	if time.Since(time.UnixMilli(int64(added))) < forgetAfter {
		return nil
	}
	if err := forgetScript.Run(ctx, b.rdb, []string{index}, b.member(), int64(added)).Err(); err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	return nil
}
