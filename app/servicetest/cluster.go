package servicetest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// slots is how many parts a Redis Cluster divides its keys into.
	slots = 16384
	// masters of a cluster; fewer than three cannot agree that one of them is gone.
	masters = 3
	// nodeTimeout is how long a node that has a replica may be silent. A shorter one would take a busy machine for a dead
	// one.
	nodeTimeout = 2 * time.Second
)

// Cluster is a Redis Cluster. At first the first three nodes are the masters, and those after them, if any, are their
// replicas in the same order.
type Cluster struct {
	Nodes []*RedisServer

	replicated bool
}

// RedisCluster starts a Redis Cluster of three masters without replicas, so that what a master knows goes away with it.
// It belongs to this test alone and ends with it.
func RedisCluster(t testing.TB) *Cluster {
	t.Helper()
	return redisCluster(t, 0, false)
}

// RedisClusterTLS is RedisCluster with TLS, between its nodes too. One certificate serves all.
func RedisClusterTLS(t testing.TB) *Cluster {
	t.Helper()
	return redisCluster(t, 0, true)
}

// RedisClusterWithReplicas starts a Redis Cluster of three masters with a replica each, which takes over within some
// seconds. It belongs to this test alone and ends with it.
func RedisClusterWithReplicas(t testing.TB) *Cluster {
	t.Helper()
	return redisCluster(t, 1, false)
}

func redisCluster(t testing.TB, replicas int, withTLS bool) *Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	c := &Cluster{replicated: replicas > 0}
	t.Cleanup(func() {
		for _, node := range c.Nodes {
			if err := node.Stop(); err != nil {
				t.Errorf("stop the test's Redis Cluster: %v", err)
			}
		}
	})
	var buses []int
	for range masters * (1 + replicas) {
		node, bus, err := c.startNode(ctx, withTLS)
		require(t, err)
		c.Nodes, buses = append(c.Nodes, node), append(buses, bus)
	}
	require(t, c.form(ctx, buses))
	require(t, c.Ready(ctx))
	require(t, c.replicate(ctx))
	return c
}

// startNode starts one that knows no others yet, on a bus port that may be taken in the moment between our choice and
// its start, as any free port may.
func (c *Cluster) startNode(ctx context.Context, withTLS bool) (node *RedisServer, bus int, err error) {
	for try := 1; ; try++ {
		// The default, 10,000 above the port, need not be free and may not even be a port.
		if bus, err = freePort(); err != nil {
			return nil, 0, err
		}
		settings := map[string]string{
			"save": "", "appendonly": "no", "cluster-enabled": "yes", "cluster-port": strconv.Itoa(bus),
			"cluster-replica-validity-factor": "0", // however old its data, a replica takes over
			"cluster-allow-replica-migration": "no",
			"repl-diskless-sync-delay":        "0",
			// A replica is shown to clients once its master has written something to it: a ping, in a new cluster.
			"repl-ping-replica-period": "1",
		}
		if c.replicated { // without replicas a short time-out only makes the others refuse their work sooner
			settings["cluster-node-timeout"] = strconv.FormatInt(nodeTimeout.Milliseconds(), 10)
		}
		node, err = startRedis(ctx, Options{Settings: settings}, func(s *RedisServer) error {
			if !withTLS {
				return nil
			}
			settings["tls-cluster"], settings["tls-replication"] = "yes", "yes"
			if len(c.Nodes) > 0 {
				s.certificate, s.clientTLS = c.Nodes[0].certificate, c.Nodes[0].clientTLS
			}
			return s.useTLS()
		})
		var ended *startError
		if err == nil || !errors.As(err, &ended) || try == 5 {
			return node, bus, err
		}
	}
}

// form gives each master its share of the slots and introduces every node to the first.
func (c *Cluster) form(ctx context.Context, buses []int) error {
	for i, node := range c.Nodes {
		client := redis.NewClient(node.Options())
		defer client.Close()
		// Before they meet, so that no two epochs collide.
		err := client.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err()
		if i < masters {
			first, last := i*slots/masters, (i+1)*slots/masters-1
			err = errors.Join(err, client.ClusterAddSlotsRange(ctx, first, last).Err())
		}
		if i > 0 {
			err = errors.Join(err, client.Do(ctx, "CLUSTER", "MEET", "127.0.0.1", c.Nodes[0].Port, buses[0]).Err())
		}
		if err != nil {
			return fmt.Errorf("form the cluster: %w", err)
		}
	}
	return nil
}

// replicate makes replicas of the nodes after the masters and returns once they have their masters' data and every node
// knows them.
func (c *Cluster) replicate(ctx context.Context) error {
	for i, node := range c.Nodes[masters:] {
		master := redis.NewClient(c.Nodes[i].Options())
		defer master.Close()
		client := redis.NewClient(node.Options())
		defer client.Close()
		id, err := master.ClusterMyID(ctx).Result()
		if err == nil {
			err = client.ClusterReplicate(ctx, id).Err()
		}
		if err != nil {
			return fmt.Errorf("make a replica of %s: %w", c.Nodes[i].Addr(), err)
		}
	}
	for _, node := range c.Nodes[masters:] {
		client := redis.NewClient(node.Options())
		defer client.Close()
		err := node.process.await(ctx, func(ctx context.Context) error { return c.knowReplica(ctx, client, node) })
		if err != nil {
			return fmt.Errorf("await the replica %s: %w", node.Addr(), err)
		}
	}
	return nil
}

func (c *Cluster) knowReplica(ctx context.Context, client *redis.Client, replica *RedisServer) error {
	info, err := client.Info(ctx, "replication").Result()
	if err != nil {
		return err
	}
	if !strings.Contains(info, "\nmaster_link_status:up\r\n") {
		return errors.New("the replica has no data of its master yet")
	}
	return c.everyNode(ctx, func(ctx context.Context, client *redis.Client) error {
		shares, err := client.ClusterSlots(ctx).Result() //nolint:staticcheck // it lists the nodes that work
		if err != nil {
			return err
		}
		for _, share := range shares {
			for _, node := range share.Nodes[1:] {
				if node.Addr == replica.Addr() {
					return nil
				}
			}
		}
		return fmt.Errorf("%s is not known as a replica", replica.Addr())
	})
}

// everyNode asks all nodes that run.
func (c *Cluster) everyNode(ctx context.Context, ask func(context.Context, *redis.Client) error) error {
	for _, node := range c.running() {
		client := redis.NewClient(node.Options())
		err := ask(ctx, client)
		_ = client.Close()
		if err != nil {
			return fmt.Errorf("ask %s: %w", node.Addr(), err)
		}
	}
	return nil
}

func (c *Cluster) running() (nodes []*RedisServer) {
	for _, node := range c.Nodes {
		if node.running() {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// Ready returns once every node that runs says that the whole cluster works and knows all the others, which takes some
// seconds after one was restarted.
func (c *Cluster) Ready(ctx context.Context) error {
	return c.await(ctx, func(ctx context.Context, client *redis.Client) error {
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
}

// await returns once ask returns nil for every node that runs.
func (c *Cluster) await(ctx context.Context, ask func(context.Context, *redis.Client) error) error {
	for _, node := range c.running() {
		client := redis.NewClient(node.Options())
		defer client.Close()
		if err := node.process.await(ctx, func(ctx context.Context) error { return ask(ctx, client) }); err != nil {
			return err
		}
	}
	return nil
}

// URL is what REDIS_URL takes.
func (c *Cluster) URL() string {
	if c.Nodes[0].clientTLS != nil {
		return severalURL("rediss+cluster", "", url.Values{"skip_verify": {"true"}}, c.Nodes)
	}
	return severalURL("redis+cluster", "", url.Values{}, c.Nodes)
}

// severalURL names the first server as the host and the others in the query.
func severalURL(scheme, path string, query url.Values, servers []*RedisServer) string {
	for _, other := range servers[1:] {
		query.Add("addr", other.Addr())
	}
	u := url.URL{Scheme: scheme, Host: servers[0].Addr(), Path: path, RawQuery: query.Encode()}
	return u.String()
}

// Options are a client's, new with each call, and as strict as those of a single server. Redirections are followed; on
// that path go-redis also repeats what a connection lost, and no option keeps it from that.
func (c *Cluster) Options() *redis.ClusterOptions {
	o := &redis.ClusterOptions{
		TLSConfig: c.Nodes[0].clientTLS.Clone(), MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: time.Second,
	}
	for _, node := range c.Nodes {
		o.Addrs = append(o.Addrs, node.Addr())
	}
	return o
}

// Masters are the nodes that have slots now, as the first node that runs sees it, in the order of their slots.
func (c *Cluster) Masters(ctx context.Context) (nodes []*RedisServer, err error) {
	shares, err := c.shares(ctx)
	if err != nil {
		return nil, err
	}
	for _, share := range shares {
		node, err := c.byAddr(share.Nodes[0].Addr)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(nodes, node) {
			nodes = append(nodes, node)
		}
	}
	return nodes, nil
}

// Owner is the master that keeps the key now.
func (c *Cluster) Owner(ctx context.Context, key string) (*RedisServer, error) {
	shares, err := c.shares(ctx)
	if err != nil {
		return nil, err
	}
	slot, err := c.slot(ctx, key)
	if err != nil {
		return nil, err
	}
	for _, share := range shares {
		if share.Start <= slot && slot <= share.End {
			return c.byAddr(share.Nodes[0].Addr)
		}
	}
	return nil, fmt.Errorf("no node has slot %d", slot)
}

func (c *Cluster) shares(ctx context.Context) ([]redis.ClusterSlot, error) {
	client := redis.NewClient(c.running()[0].Options())
	defer client.Close()
	shares, err := client.ClusterSlots(ctx).Result() //nolint:staticcheck // it lists the nodes that work
	slices.SortFunc(shares, func(a, b redis.ClusterSlot) int { return a.Start - b.Start })
	return shares, err
}

func (c *Cluster) slot(ctx context.Context, key string) (int, error) {
	client := redis.NewClient(c.running()[0].Options())
	defer client.Close()
	slot, err := client.ClusterKeySlot(ctx, key).Result()
	return int(slot), err
}

func (c *Cluster) byAddr(addr string) (*RedisServer, error) {
	for _, node := range c.Nodes {
		if node.Addr() == addr {
			return node, nil
		}
	}
	return nil, fmt.Errorf("%s is no node of this test's cluster", addr)
}
