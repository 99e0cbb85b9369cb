package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// commitLatency returns, in milliseconds, the median of what a transaction takes that inserts one row: on this disk the
// least that a strategy pays which commits row by row. It is not a temporary table, because those are not logged: their
// commits do not wait for the disk.
func (d *deployment) commitLatency(ctx context.Context) (median *float64, err error) {
	conn, err := pgx.Connect(ctx, d.databaseURL)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE TABLE commit_latency (n int)"); err != nil {
		return nil, fmt.Errorf("commit latency: %w", err)
	}
	took := make([]time.Duration, 50)
	for n := range took {
		begun := time.Now()
		if _, err := conn.Exec(ctx, "INSERT INTO commit_latency VALUES ($1)", n); err != nil {
			return nil, fmt.Errorf("commit latency: %w", err)
		}
		took[n] = time.Since(begun)
	}
	if _, err := conn.Exec(ctx, "DROP TABLE commit_latency"); err != nil {
		return nil, fmt.Errorf("commit latency: %w", err)
	}
	slices.Sort(took)
	return percentile(took, 0.5), nil
}
