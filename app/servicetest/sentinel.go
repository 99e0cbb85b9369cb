package servicetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// masterName is what the Sentinels call the master.
	masterName = "m"
	// downAfter is how long the master may be silent. A shorter time would take a busy machine for a dead one.
	downAfter = 2 * time.Second
)

// Sentinel is a master with a replica, watched by three Redis Sentinels, two of which must agree that it is gone.
type Sentinel struct {
	// Nodes are the servers that have data. At first the first one is the master.
	Nodes []*RedisServer
	// Sentinels are the three processes that watch them.
	Sentinels []*RedisServer
}

// RedisSentinel starts such a set for this test alone; it ends with the test.
func RedisSentinel(t testing.TB) *Sentinel {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	s := &Sentinel{}
	t.Cleanup(func() {
		for _, server := range slices.Concat(s.Sentinels, s.Nodes) {
			if err := server.Stop(); err != nil {
				t.Errorf("stop the test's Redis Sentinel: %v", err)
			}
		}
	})
	for range 2 {
		node, err := StartRedis(ctx, Options{Settings: map[string]string{
			"save": "", "appendonly": "no", "repl-diskless-sync-delay": "0",
		}})
		require(t, err)
		s.Nodes = append(s.Nodes, node)
	}
	require(t, s.replicate(ctx))
	for range 3 {
		sentinel, err := startRedis(ctx, Options{}, s.configure)
		require(t, err)
		s.Sentinels = append(s.Sentinels, sentinel)
	}
	require(t, s.Ready(ctx))
	return s
}

func (s *Sentinel) replicate(ctx context.Context) error {
	client := redis.NewClient(s.Nodes[1].Options())
	defer client.Close()
	return client.Do(ctx, "REPLICAOF", "127.0.0.1", s.Nodes[0].Port).Err()
}

// configure writes the file that a Sentinel needs; it keeps its state there.
func (s *Sentinel) configure(sentinel *RedisServer) error {
	file := filepath.Join(sentinel.Dir, "sentinel.conf")
	text := fmt.Sprintf(`sentinel monitor %[1]s 127.0.0.1 %[2]d 2
sentinel down-after-milliseconds %[1]s %[3]d
sentinel failover-timeout %[1]s 10000
sentinel parallel-syncs %[1]s 1
`, masterName, s.Nodes[0].Port, downAfter.Milliseconds())
	sentinel.arguments = []string{file, "--sentinel"}
	return owned(file, os.WriteFile(file, []byte(text), 0o600))
}

// Ready returns once a failover is possible: every Sentinel knows the others and the replicas that run, and these have
// the master's data.
func (s *Sentinel) Ready(ctx context.Context) error {
	replicas := -1 // one of those that run is the master
	for _, node := range s.Nodes {
		if node.running() {
			replicas++
		}
	}
	for _, sentinel := range s.Sentinels {
		client := redis.NewSentinelClient(sentinel.Options())
		defer client.Close()
		err := sentinel.process.await(ctx, func(ctx context.Context) error { return s.known(ctx, client, replicas) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Sentinel) known(ctx context.Context, client *redis.SentinelClient, replicas int) error {
	master, err := client.Master(ctx, masterName).Result()
	if err != nil {
		return err
	}
	if master["flags"] != "master" || master["num-other-sentinels"] != "2" {
		return fmt.Errorf("the master is %s and %s other Sentinels are known", master["flags"],
			master["num-other-sentinels"])
	}
	all, err := client.Replicas(ctx, masterName).Result()
	if err != nil {
		return err
	}
	usable := 0
	for _, replica := range all {
		if replica["flags"] == "slave" && replica["master-link-status"] == "ok" {
			usable++
		}
	}
	if usable < replicas {
		return fmt.Errorf("%d of %d replicas are usable", usable, replicas)
	}
	return nil
}

// URL is what REDIS_URL takes.
func (s *Sentinel) URL() string {
	return severalURL("redis+sentinel", "/0", url.Values{"master_name": {masterName}}, s.Sentinels)
}

// Options are a failover client's, new with each call, and as strict as those of a single server.
func (s *Sentinel) Options() *redis.FailoverOptions {
	o := &redis.FailoverOptions{
		MasterName: masterName,
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true, DialTimeout: time.Second,
	}
	for _, sentinel := range s.Sentinels {
		o.SentinelAddrs = append(o.SentinelAddrs, sentinel.Addr())
	}
	return o
}

// Master is the node that the first Sentinel which answers takes for the master.
func (s *Sentinel) Master(ctx context.Context) (*RedisServer, error) {
	var faults error
	for _, sentinel := range s.Sentinels {
		client := redis.NewSentinelClient(sentinel.Options())
		addr, err := client.GetMasterAddrByName(ctx, masterName).Result()
		_ = client.Close()
		if err != nil {
			faults = errors.Join(faults, err)
			continue
		}
		for _, node := range s.Nodes {
			if node.Addr() == net.JoinHostPort(addr[0], addr[1]) {
				return node, nil
			}
		}
		return nil, fmt.Errorf("%v is no node of this test's", addr)
	}
	return nil, faults
}

// FailOver kills the master with kill -9 and returns once all Sentinels know another one, which says itself that it is
// the master. What the replica did not have yet is lost. Restart brings the killed one back; the Sentinels make a
// replica of it, which Ready waits for.
func (s *Sentinel) FailOver(ctx context.Context) error {
	old, err := s.Master(ctx)
	if err != nil {
		return err
	}
	if err := old.Kill(); err != nil {
		return err
	}
	for _, sentinel := range s.Sentinels {
		client := redis.NewSentinelClient(sentinel.Options())
		defer client.Close()
		err := sentinel.process.await(ctx, func(ctx context.Context) error {
			addr, err := client.GetMasterAddrByName(ctx, masterName).Result()
			if err == nil && net.JoinHostPort(addr[0], addr[1]) == old.Addr() {
				err = fmt.Errorf("the master is %s still", old.Addr())
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	now, err := s.Master(ctx)
	if err != nil {
		return err
	}
	client := redis.NewClient(now.Options())
	defer client.Close()
	return now.process.await(ctx, func(ctx context.Context) error {
		info, err := client.Info(ctx, "replication").Result()
		if err == nil && !strings.Contains(info, "\nrole:master\r\n") {
			err = fmt.Errorf("%s is not promoted yet", now.Addr())
		}
		return err
	})
}
