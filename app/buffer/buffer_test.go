package buffer_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
)

// newBuffer is the live buffer, in this process.
func newBuffer(t *testing.T, b backend, l *ledger) *buffer.Buffer[int64] {
	t.Helper()
	return buffer.New(b.client(t), l.pool, buffer.Options[int64]{Name: family, Apply: mark, Lease: lease}).Open(live)
}

func TestWhatWasAddedIsAppliedOnce(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		const payments = 25_000
		l := newLedger(t, payments+1)
		buf := newBuffer(t, b, l)

		ids := Payments{live, 1, payments}.ids()
		require.NoError(t, buf.Add(t.Context(), ids...))
		require.NoError(t, buf.Add(t.Context(), ids[:10]...), "again, which changes nothing")
		require.NoError(t, buf.Add(t.Context()), "none, which changes nothing either")
		holds, err := buf.Stats(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, payments, holds.Open)
		require.EqualValues(t, payments, holds.Depth)
		require.Positive(t, holds.OldestAge)
		require.Less(t, holds.OldestAge, time.Minute)

		done, err := buf.Flush(t.Context())
		require.NoError(t, err)
		require.Equal(t, buffer.Flushed{Generations: 1, Items: payments, Applied: agree(1, payments)}, done)
		l.holds(t, 1, payments)

		holds, err = buf.Stats(t.Context())
		require.NoError(t, err)
		require.Zero(t, holds)
		var keys []string
		for _, node := range b.nodes {
			keys = append(keys, connect(t, node).Keys(t.Context(), "*").Val()...)
		}
		require.Equal(t, []string{index}, keys, "nothing is left but the index")
		done, err = buf.Flush(t.Context())
		require.NoError(t, err)
		require.Zero(t, done)
	})
}

func TestIDsComeToApplyDistinctAndInOrder(t *testing.T) {
	t.Parallel()
	b, l := oneRedis(t), newLedger(t, 1)
	var applied []string
	words := buffer.New(b.client(t), l.pool, buffer.Options[string]{
		Name: family, Apply: func(_ context.Context, _ pgx.Tx, g buffer.Generation, ids []string) (int64, error) {
			require.Equal(t, "words", g.Buffer)
			applied = append(applied, ids...)
			return int64(len(ids)), nil
		},
	}).Open("words")
	require.NoError(t, words.Add(t.Context(), "pear", "", "apple", "two words", "apple", "7", "\x00\xff", "'{}'"))
	done, err := words.Flush(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"", "\x00\xff", "'{}'", "7", "apple", "pear", "two words"}, applied)
	require.Equal(t, buffer.Flushed{Generations: 1, Items: 7, Applied: 7}, done)
}

// A name is the caller's: it may look like a key, a hash tag or a pattern.
func TestBuffersOfAnyNameAreApart(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		names := []string{"", " ", "a", "a:b", "}", "{", "{}", "a}:open", "*", "é\n", "open", "generations"}
		l := newLedger(t, int64(len(names)))
		buffers := buffer.New(b.client(t), l.pool, buffer.Options[int64]{Name: family, Apply: mark})
		for i, name := range names {
			require.NoError(t, buffers.Open(name).Add(t.Context(), int64(i+1)), "%q", name)
		}
		for i, name := range names {
			done, err := buffers.Open(name).Flush(t.Context())
			require.NoError(t, err, "%q", name)
			require.EqualValues(t, 1, done.Items, "%q", name)
			l.holds(t, 1, int64(i+1))
		}
	})
}

func TestDropForgetsWhatNoFlushHasBegunWith(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := newLedger(t, payments)
		flusher := startProcess(t, b, l, settings{StopAt: "cut"})
		flusher.add(live, 1, 500)
		flush := flusher.beginFlush()
		flusher.reached()
		buf := newBuffer(t, b, l)
		require.NoError(t, buf.Add(t.Context(), Payments{live, 501, payments}.ids()...))
		require.NoError(t, buf.Drop(t.Context()))
		flusher.goOn()
		require.NoError(t, (<-flush).err)
		_, err := buf.Flush(t.Context())
		require.NoError(t, err)
		l.holds(t, 1, 500)
		require.Empty(t, b.left(t))
	})
}

func TestAFlushThatCannotApplyLeavesEverything(t *testing.T) {
	t.Parallel()
	b, l := oneRedis(t), newLedger(t, payments)
	broken := true
	buf := buffer.New(b.client(t), l.pool, buffer.Options[int64]{
		Name: family, Lease: time.Second,
		Apply: func(ctx context.Context, tx pgx.Tx, g buffer.Generation, ids []int64) (int64, error) {
			applied, err := mark(ctx, tx, g, ids)
			if broken {
				_, err = tx.Exec(ctx, "SELECT 1/0")
			}
			return applied, err
		},
	}).Open(live)
	require.NoError(t, buf.Add(t.Context(), Payments{live, 1, payments}.ids()...))
	_, err := buf.Flush(t.Context())
	require.ErrorContains(t, err, "division by zero")
	require.Zero(t, l.marked(t, 1, payments))
	require.Zero(t, l.generations(t))

	broken = false
	done, err := buf.Flush(t.Context())
	require.NoError(t, err)
	require.Equal(t, buffer.Flushed{Generations: 1, Items: payments, Applied: agree(1, payments)}, done)
	l.holds(t, 1, payments)
}

// Somebody else has put something into the set. Its generation cannot be applied, and says so each time; those that
// come later are applied, if with less haste. Once it is taken out the rest of its generation is applied too.
func TestAMemberThatIsNoID(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l := newLedger(t, payments)
		const briefly = 2 * time.Second
		s := settings{Lease: briefly, FlushAge: often, FlushTimeout: briefly}
		manual := startProcess(t, b, l, s)
		manual.add(live, 1, 500)
		require.NoError(t, b.at(t, member).SAdd(t.Context(), key(member, "open"), "not a number").Err())
		err := (<-manual.beginFlush()).err
		require.ErrorContains(t, err, `"not a number" is no id`)
		require.ErrorContains(t, (<-manual.beginFlush()).err, `"not a number" is no id`, "again, and not for ever held")

		s.Run, s.Continuous = true, []string{live}
		startProcess(t, b, l, s)
		manual.add(live, 501, payments)
		l.settled(t, 501, payments)
		require.Zero(t, l.marked(t, 1, 500))
		var bad []string
		eventually(t, func() bool { // the others are acknowledged
			bad = b.waiting(t, member)
			return len(bad) == 1
		})
		require.NoError(t, b.at(t, member).SRem(t.Context(), key(member, "gen:"+bad[0]), "not a number").Err())
		l.settled(t, 1, 500)
		b.empty(t, member)
		l.holds(t, 1, payments)
	})
}

// Something else, such as an operator, has put ids into the set: nothing says since when they wait.
func TestIDsThatDidNotComeByAdd(t *testing.T) {
	t.Parallel()
	b, l := oneRedis(t), newLedger(t, 10)
	buf := newBuffer(t, b, l)
	require.NoError(t, b.at(t, member).SAdd(t.Context(), key(member, "open"), 1, 2, 3, 4, 5).Err())
	_, err := buf.Flush(t.Context())
	require.Error(t, err)
	require.NoError(t, buf.Add(t.Context(), 6))
	_, err = buf.Flush(t.Context())
	require.NoError(t, err)
	l.holds(t, 1, 6)
}

func TestStatsDoNotTakeAnErrorForNothing(t *testing.T) {
	t.Parallel()
	b, l := oneRedis(t), newLedger(t, 1)
	require.NoError(t, b.at(t, member).Set(t.Context(), key(member, "generations"), "no sorted set", 0).Err())
	_, err := newBuffer(t, b, l).Stats(t.Context())
	require.ErrorContains(t, err, "WRONGTYPE")
}
