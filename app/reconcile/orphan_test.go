package reconcile_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
	"nervous/app/reconcile"
)

// What a late worker adds after its run is over is removed, and the index forgets it.
func TestOrphans(t *testing.T) {
	t.Parallel()
	s := newStores(t)
	replica := s.replica(t, reconcile.Options{FlushAge: often})
	id := replica.start(reconcile.Buffered).Job.ID
	require.Equal(t, reconcile.Done, s.over(t, id).State)
	late := buffer.New(s.client(t), s.pool, buffer.Options[int64]{
		Name: "reconcile", FlushSize: 1500,
		Apply: func(context.Context, pgx.Tx, buffer.Generation, []int64) (int64, error) { return 0, nil },
	})
	ids := make([]int64, 3000)
	for i := range ids {
		ids[i] = int64(i + 1)
	}
	for _, name := range []string{id.String(), id.String() + "/1"} { // also as releases without ranges named it
		require.NoError(t, late.Open(name).Add(t.Context(), ids...))
	}
	// As releases without namespaces named it.
	old := "buffer:{reconcile:" + id.String() + "}:"
	require.NoError(t, s.client(t).SAdd(t.Context(), old+"open", 1, 2, 3).Err())
	require.NoError(t, s.client(t).HSet(t.Context(), old+"open:manifest", "since", time.Now().UnixMicro()).Err())
	require.NoError(t, s.client(t).ZAdd(t.Context(), "buffers",
		redis.Z{Score: float64(time.Now().UnixMilli()), Member: "reconcile:" + id.String()}).Err())
	require.NotEmpty(t, s.kept(t, id))
	eventually(t, func() bool { return len(s.kept(t, id)) == 0 })
	eventually(t, func() bool { return s.client(t).Exists(t.Context(), "default:buffers").Val() == 0 })
	eventually(t, func() bool { return s.client(t).Exists(t.Context(), "buffers", old+"open").Val() == 0 })
	require.InDelta(t, 6_003, replica.Metric(buffer.MetricDropped)[""], 0)
}
