package buffer_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
)

// Run leaves a buffer to its owner, removes one that has none any more, and flushes the rest.
func TestOwnership(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := newLedger(t, 3_000)
		var unknown atomic.Bool
		unknown.Store(true)
		asked := make(chan struct{}, 100)
		family_ := buffer.New(b.client(t), l.pool, buffer.Options[int64]{
			Name: family, Apply: mark, Lease: lease, FlushSize: 500, FlushAge: 20 * time.Millisecond,
			Ownership: func(_ context.Context, names []string) (map[string]buffer.Ownership, error) {
				asked <- struct{}{}
				if unknown.Load() {
					return nil, errors.New("the database is away")
				}
				require.Subset(t, []string{"owned", "orphan", "rest"}, names)
				return map[string]buffer.Ownership{"owned": buffer.Owned, "orphan": buffer.Orphaned}, nil
			},
		}.OrphanAfter(100*time.Millisecond).ForgetAfter(time.Second))
		for i, name := range []string{"owned", "orphan", "rest"} {
			first := int64(i * 1000)
			require.NoError(t, family_.Open(name).Add(t.Context(), Payments{name, first + 1, first + 700}.ids()...))
			require.NoError(t, family_.Open(name).Add(t.Context(), first+701), "which stays open")
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- family_.Run(ctx) }()
		for range 3 {
			<-asked
		}
		require.Zero(t, l.marked(t, 1, 3_000), "whose they are is not known")
		unknown.Store(false)

		eventually(t, func() bool { return len(leftAt(t, b.at(t, family+":orphan"), family+":orphan")) == 0 })
		l.settled(t, 2_001, 2_700)
		eventually(t, func() bool { return len(indexed(t, b.client(t))) == 2 })
		require.Zero(t, l.marked(t, 1, 2_000))

		done, err := family_.Open("owned").Flush(t.Context())
		require.NoError(t, err)
		require.Equal(t, buffer.Flushed{Generations: 2, Items: 701, Applied: agree(1, 701)}, done)
		stop()
		require.NoError(t, <-ended)
	})
}
