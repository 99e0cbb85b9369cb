package servicetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// slots is how many parts a Redis Cluster divides its keys into.
const slots = 16384

// Cluster is a Redis Cluster of masters without replicas, so that what a master knows goes away with it.
type Cluster struct {
	Nodes []*RedisServer
}

// RedisCluster starts a Redis Cluster of three masters that belongs to this test alone and ends with it.
func RedisCluster(t testing.TB) *Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	c := &Cluster{}
	t.Cleanup(func() {
		for _, node := range c.Nodes {
			if err := node.Stop(); err != nil {
				t.Errorf("stop the test's Redis Cluster: %v", err)
			}
		}
	})
	var buses []int
	for range 3 {
		node, bus, err := startMaster(ctx)
		require(t, err)
		c.Nodes, buses = append(c.Nodes, node), append(buses, bus)
	}
	require(t, c.form(ctx, buses))
	require(t, c.Ready(ctx))
	return c
}

// startMaster starts one that knows no others yet, on a bus port that may be taken in the moment between our choice and
// its start, as any free port may.
func startMaster(ctx context.Context) (node *RedisServer, bus int, err error) {
	for try := 1; ; try++ {
		// The default, 10,000 above the port, need not be free and may not even be a port.
		if bus, err = freePort(); err != nil {
			return nil, 0, err
		}
		node, err = StartRedis(ctx, Options{Settings: map[string]string{
			"save": "", "appendonly": "no", "cluster-enabled": "yes", "cluster-port": strconv.Itoa(bus),
		}})
		var ended *startError
		if err == nil || !errors.As(err, &ended) || try == 5 {
			return node, bus, err
		}
	}
}

// form gives each node its share of the slots and introduces it to the first.
func (c *Cluster) form(ctx context.Context, buses []int) error {
	for i, node := range c.Nodes {
		client := redis.NewClient(node.Options())
		defer client.Close()
		first, last := i*slots/len(c.Nodes), (i+1)*slots/len(c.Nodes)-1
		err := errors.Join(
			client.ClusterAddSlotsRange(ctx, first, last).Err(),
			client.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(), // before they meet, so that none of them collide
		)
		if i > 0 {
			err = errors.Join(err, client.Do(ctx, "CLUSTER", "MEET", "127.0.0.1", c.Nodes[0].Port, buses[0]).Err())
		}
		if err != nil {
			return fmt.Errorf("form the cluster: %w", err)
		}
	}
	return nil
}

// Ready returns once every node says that the whole cluster works and knows all the others, which takes some seconds
// after one was restarted.
func (c *Cluster) Ready(ctx context.Context) error {
	for _, node := range c.Nodes {
		client := redis.NewClient(node.Options())
		defer client.Close()
		err := node.process.await(ctx, func(ctx context.Context) error {
			info, err := client.ClusterInfo(ctx).Result()
			if err != nil {
				return err
			}
			for _, fact := range []string{"cluster_state:ok", fmt.Sprintf("cluster_known_nodes:%d", len(c.Nodes))} {
				if !strings.Contains(info, fact) {
					return fmt.Errorf("not yet %s: %s", fact, info)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Options are a client's, new with each call, and as strict as those of a single server. Redirections are followed; on
// that path go-redis also repeats what a connection lost, and no option keeps it from that.
func (c *Cluster) Options() *redis.ClusterOptions {
	o := &redis.ClusterOptions{
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true, DialTimeout: time.Second,
	}
	for _, node := range c.Nodes {
		o.Addrs = append(o.Addrs, node.Addr())
	}
	return o
}

// Owner is the node that keeps the key.
func (c *Cluster) Owner(ctx context.Context, key string) (*RedisServer, error) {
	client := redis.NewClient(c.Nodes[0].Options())
	defer client.Close()
	slot, err := client.ClusterKeySlot(ctx, key).Result()
	if err != nil {
		return nil, err
	}
	for i, node := range c.Nodes {
		if slot < int64((i+1)*slots/len(c.Nodes)) {
			return node, nil
		}
	}
	return nil, fmt.Errorf("slot %d is nobody's", slot)
}
