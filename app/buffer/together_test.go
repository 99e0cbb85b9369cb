package buffer_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
)

// What is due of several buffers is applied in one transaction. When that fails, each generation is tried again by
// itself.
func TestRun_FlushesAllThatIsDueInOneTransaction(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		const payments = 1_000
		l := newLedger(t, payments)
		var together, failures atomic.Int64
		rdb := b.client(t)
		buffers := buffer.New(rdb, l.pool, buffer.Options[int64]{
			Name: family, Apply: mark, Lease: lease, FlushAge: 20 * time.Millisecond,
			ApplyAll: func(ctx context.Context, tx pgx.Tx, all []buffer.Generation, ids []int64) (int64, error) {
				together.Store(max(together.Load(), int64(len(all))))
				n, err := mark(ctx, tx, all[0], ids)
				if failures.Load() > 0 {
					failures.Add(-1)
					err = errors.New("not now")
				}
				return n, err
			},
		})
		names := []string{live, "a", "b", "c"}
		var all []*buffer.Buffer[int64]
		for _, name := range names {
			all = append(all, buffers.Open(name))
		}
		add := func(first, last int64) {
			t.Helper()
			for i, buf := range all { // the ids overlap
				require.NoError(t, buf.Add(t.Context(), Payments{live, first + int64(i)*10, last}.ids()...))
			}
		}
		add(1, 500)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- buffers.Run(ctx, all...) }()
		l.settled(t, 1, 500)
		require.Greater(t, together.Load(), int64(1), "the last one may not be due with the first ones")
		l.holds(t, 1, 500)
		eventually(t, func() bool { return l.generations(t) == len(names) })

		failures.Store(1)
		add(501, payments)
		l.settled(t, 501, payments)
		l.holds(t, 1, payments)
		for _, name := range names {
			eventually(t, func() bool { return len(leftAt(t, b.at(t, family+":"+name), family+":"+name)) == 0 })
		}
		stop()
		require.NoError(t, <-ended)
	})
}
