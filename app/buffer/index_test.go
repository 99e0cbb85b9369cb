package buffer_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
	"nervous/app/servicetest"
)

// indexNode is the node that has the index.
func (b backend) indexNode(t *testing.T) *servicetest.RedisServer {
	t.Helper()
	owner, err := b.cluster.Owner(t.Context(), index)
	require.NoError(t, err)
	return owner
}

// elsewhere returns names of buffers that are on another node than the index.
func (b backend) elsewhere(t *testing.T, node *servicetest.RedisServer, n int) (names []string) {
	t.Helper()
	for i := 0; len(names) < n; i++ {
		name := fmt.Sprint("job ", i)
		if b.owner(t, family+":"+name) != node {
			names = append(names, name)
		}
	}
	return names
}

// orphans lists what is open on any node and not in the index.
func (b backend) orphans(t *testing.T) (orphans []string) {
	t.Helper()
	known := map[string]bool{}
	for _, m := range indexed(t, b.client(t)) {
		known[key(m, "open")] = true
	}
	masters, err := b.cluster.Masters(t.Context())
	require.NoError(t, err)
	for _, node := range masters {
		open, err := connect(t, node).Keys(t.Context(), "*:open").Result()
		require.NoError(t, err)
		for _, k := range open {
			if !known[k] {
				orphans = append(orphans, k)
			}
		}
	}
	return orphans
}

// The node that has the index is gone while others work. Ids of a buffer that is not in the index are refused and not
// put anywhere; those of one that is are accepted. What the index has lost is there again soon after.
func TestAdd_ClusterWithoutTheIndexsNode(t *testing.T) {
	t.Parallel()
	b := aCluster(t)
	for _, node := range b.nodes { // the others go on without it
		require.NoError(t, connect(t, node).ConfigSet(t.Context(), "cluster-require-full-coverage", "no").Err())
	}
	node := b.indexNode(t)
	names := b.elsewhere(t, node, 2)
	l := newLedger(t, payments)
	s := settings{FlushAge: often, Run: true}
	adder := startProcess(t, b, l, s)
	adder.add(names[0], 1, 100)
	require.NoError(t, node.Kill())

	require.NoError(t, adder.Try("Add", Payments{names[0], 101, 200}, new(string)), "its membership was confirmed")
	require.Error(t, adder.Try("Add", Payments{names[1], 201, 300}, new(string)))
	require.Zero(t, b.at(t, family+":"+names[1]).Exists(t.Context(), key(family+":"+names[1], "open")).Val())
	require.Equal(t, map[string]float64{"added": 200, "refused": 100}, adder.Metric(buffer.MetricAdds, "outcome"))

	require.NoError(t, node.Restart(t.Context())) // without its data
	require.NoError(t, b.cluster.Ready(t.Context()))
	eventually(t, func() bool { return len(b.orphans(t)) == 0 })
	require.Equal(t, []string{family + ":" + names[0]}, indexed(t, b.client(t)))
	adder.add(names[1], 201, 300)
	require.Empty(t, b.orphans(t))
	adder.flush(names[0])
	adder.flush(names[1])
	l.holds(t, 1, 300)
}

// The index's node fails over while processes add to buffers that are new. Replication is asynchronous: what it has
// confirmed at the end may be unknown to its replica.
func TestAdd_IndexFailsOver(t *testing.T) {
	t.Parallel()
	cluster := servicetest.RedisClusterWithReplicas(t)
	b := backend{nodes: cluster.Nodes, cluster: cluster}
	node := b.indexNode(t)
	l := newLedger(t, payments)
	adder := startProcess(t, b, l, settings{FlushAge: often, Run: true})
	var accepted, tried int
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for ; ; tried++ {
			select {
			case <-stop:
				return
			default:
				if adder.Try("Add", Payments{fmt.Sprint("job ", tried), 1, 1}, new(string)) == nil {
					accepted++
				}
			}
		}
	}()
	require.NoError(t, cluster.FailOver(t.Context(), node))
	eventually(t, func() bool { return adder.Try("Add", Payments{live, 1, 1}, new(string)) == nil })
	close(stop)
	<-stopped
	t.Logf("%d of %d adds to buffers that were new were accepted", accepted, tried)
	require.Positive(t, accepted)
	eventually(t, func() bool { return len(b.orphans(t)) == 0 })
}

// A process stands still between its confirmation and its ADD, so long that another one takes the buffer for empty and
// out of the index. The ids are in the index when Add returns.
func TestAdd_AfterAPauseIsInTheIndex(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		const short = 400 * time.Millisecond
		l, rdb := newLedger(t, payments), b.client(t)
		options := buffer.Options[int64]{Name: family, Apply: mark, FlushAge: often}.ForgetAfter(short)
		forgotten := func() bool { return len(indexed(t, rdb)) == 0 }
		far := b.client(t)
		var once sync.Once
		far.AddHook(beforePipelines{func(cmds []redis.Cmder) {
			if strings.HasPrefix(cmds[0].Name(), "evalsha") {
				once.Do(func() {
					stop := running(t, buffer.New(b.client(t), l.pool, options))
					eventually(t, forgotten)
					stop()
				})
			}
		}})
		buf := buffer.New(far, l.pool, options).Open(live)
		require.NoError(t, buf.Add(t.Context(), 4))
		require.Equal(t, []string{member}, indexed(t, rdb))
	})
}

// beforePipelines does something before a pipeline goes to Redis.
type beforePipelines struct {
	do func([]redis.Cmder)
}

func (beforePipelines) DialHook(next redis.DialHook) redis.DialHook { return next }

func (beforePipelines) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (h beforePipelines) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		h.do(cmds)
		return next(ctx, cmds)
	}
}

// A buffer that is used is confirmed again in time, and costs one more round-trip a quarter of that time at most.
func TestAdd_RoundTrips(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		l, rdb := newLedger(t, payments), b.client(t)
		scripts := map[string]int{}
		rdb.AddHook(beforeEach{func(_ context.Context, cmd redis.Cmder) { scripts[cmd.Name()]++ }})
		pipelines := 0
		rdb.AddHook(beforePipelines{func(cmds []redis.Cmder) {
			if cmds[0].Name() == "evalsha" { // and not what prepares a connection
				pipelines++
			}
		}})
		buf := buffer.New(rdb, l.pool, buffer.Options[int64]{Name: family, Apply: mark}).Open(live)
		for id := range int64(50) {
			require.NoError(t, buf.Add(t.Context(), id+1))
		}
		require.Equal(t, 50, pipelines)
		confirmations := 0 // one server adds the ids and the membership in one script
		if b.cluster != nil {
			confirmations = 1
		}
		require.Equal(t, confirmations, scripts["evalsha"])
	})
}
