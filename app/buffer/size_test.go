package buffer_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
)

// However many ids come, and whatever the database does, no generation is large.
func TestAdd_MakesGenerationsOfFlushSize(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		const payments, size = 25_000, 2_500
		l := newLedger(t, payments)
		buf := buffer.New(b.client(t), l.pool, buffer.Options[int64]{
			Name: family, Apply: mark, Lease: lease, FlushSize: size,
		}).Open(live)
		require.NoError(t, buf.Add(t.Context(), Payments{live, 1, payments}.ids()...))
		holds, err := buf.Stats(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, payments, holds.Depth)
		require.Equal(t, 8, holds.Generations, "of three chunks each")
		require.EqualValues(t, 1_000, holds.Open)
		for _, id := range b.waiting(t, family+":"+live) {
			require.EqualValues(t, 3_000, b.at(t, family+":"+live).SCard(t.Context(), key(family+":"+live, "gen:"+id)).Val())
		}
		done, err := buf.Flush(t.Context())
		require.NoError(t, err)
		require.Equal(t, buffer.Flushed{Generations: 9, Items: payments, Applied: agree(1, payments)}, done)
		l.holds(t, 1, payments)
		require.Empty(t, b.left(t))
	})
}

// An ADD that is sent again, because its reply was lost, makes a generation of its own.
func TestAdd_AgainMakesAnotherGeneration(t *testing.T) {
	t.Parallel()
	b, l := oneRedis(t), newLedger(t, 1_000)
	buf := buffer.New(b.client(t), l.pool, buffer.Options[int64]{
		Name: family, Apply: mark, Lease: lease, FlushSize: 1_000,
	}).Open(live)
	for range 2 {
		require.NoError(t, buf.Add(t.Context(), Payments{live, 1, 1_000}.ids()...))
	}
	done, err := buf.Flush(t.Context())
	require.NoError(t, err)
	require.Equal(t, buffer.Flushed{Generations: 2, Items: 2_000, Applied: agree(1, 1_000)}, done)
	l.holds(t, 1, 1_000)
}

// A buffer that holds as much as it may refuses more, so that it does not push others out of Redis, until it is
// flushed.
func TestAdd_Full(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		const payments = 5_000
		l := newLedger(t, payments)
		buf := buffer.New(b.client(t), l.pool, buffer.Options[int64]{
			Name: family, Apply: mark, Lease: lease, FlushSize: 1_000, MaxItems: 3_000,
		}).Open(live)
		require.NoError(t, buf.Add(t.Context(), Payments{live, 1, 2_500}.ids()...))
		require.NoError(t, buf.Add(t.Context(), Payments{live, 2_501, 3_000}.ids()...))
		require.ErrorIs(t, buf.Add(t.Context(), 3_001), buffer.ErrFull)
		_, err := buf.Flush(t.Context())
		require.NoError(t, err)
		l.holds(t, 1, 3_000)
		require.NoError(t, buf.Add(t.Context(), Payments{live, 3_001, payments}.ids()...))
		require.ErrorContains(t, buf.Add(t.Context(), Payments{live, 1, payments}.ids()...), "3000")
	})
}
