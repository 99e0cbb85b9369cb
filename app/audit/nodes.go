package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"nervous/app/redisurl"
)

// ErrCountsLost is in the error of an audit in whose window a server restarted, or another took its place: the counts
// of the old process are gone, so that nothing can be said.
var ErrCountsLost = errors.New("server counts lost")

// identity tells a server from all others, also from what it was before a restart or a failover.
type identity struct{ addr, role string }

// topology knows how to find the servers that replicas may call: all of a Cluster, or the one that is the master.
type topology struct {
	find  func(ctx context.Context) ([]identity, error)
	open  func(addr string) *redis.Options
	close func() error
}

// newTopology reads the URL. Its connections are its own: they stay open, because each new one would say HELLO as the
// replicas' do.
func newTopology(text string) (topology, error) {
	address, err := redisurl.Parse(text)
	if err != nil {
		return topology{}, fmt.Errorf("redis: %w", err)
	}
	switch {
	case address.Cluster != nil:
		return clusterTopology(address.Cluster), nil
	case address.Sentinel != nil:
		return sentinelTopology(address.Sentinel), nil
	}
	o := address.Server
	return topology{
		find:  func(context.Context) ([]identity, error) { return []identity{{o.Addr, master}}, nil },
		open:  func(string) *redis.Options { return o },
		close: func() error { return nil },
	}, nil
}

func sentinelTopology(o *redis.FailoverOptions) topology {
	var sentinels []*redis.SentinelClient
	for _, addr := range o.SentinelAddrs {
		sentinels = append(sentinels, redis.NewSentinelClient(quiet(&redis.Options{
			Addr: addr, Username: o.SentinelUsername, Password: o.SentinelPassword, TLSConfig: o.TLSConfig,
		})))
	}
	return topology{
		find: func(ctx context.Context) ([]identity, error) {
			var faults error
			for _, sentinel := range sentinels {
				addr, err := sentinel.GetMasterAddrByName(ctx, o.MasterName).Result()
				if err == nil {
					return []identity{{net.JoinHostPort(addr[0], addr[1]), master}}, nil
				}
				faults = errors.Join(faults, err)
			}
			return nil, fmt.Errorf("no Sentinel names the master %q: %w", o.MasterName, faults)
		},
		open: func(addr string) *redis.Options {
			return &redis.Options{
				Network: "tcp", Addr: addr, Username: o.Username, Password: o.Password, DB: o.DB, TLSConfig: o.TLSConfig,
			}
		},
		close: func() (err error) {
			for _, sentinel := range sentinels {
				err = errors.Join(err, sentinel.Close())
			}
			return err
		},
	}
}

func clusterTopology(o *redis.ClusterOptions) topology {
	open := func(addr string) *redis.Options {
		return &redis.Options{
			Network: "tcp", Addr: addr, Username: o.Username, Password: o.Password, TLSConfig: o.TLSConfig,
		}
	}
	var seeds []*redis.Client
	for _, addr := range o.Addrs {
		seeds = append(seeds, redis.NewClient(quiet(open(addr))))
	}
	return topology{
		find: func(ctx context.Context) ([]identity, error) {
			var faults error
			for i, seed := range seeds {
				table, err := seed.ClusterNodes(ctx).Result()
				if err == nil {
					host, _, _ := net.SplitHostPort(o.Addrs[i])
					return clusterNodes(table, host), nil
				}
				faults = errors.Join(faults, err)
			}
			return nil, fmt.Errorf("no node of the Cluster answers: %w", faults)
		},
		open: open,
		close: func() (err error) {
			for _, seed := range seeds {
				err = errors.Join(err, seed.Close())
			}
			return err
		},
	}
}

const (
	master  = "master"
	replica = "replica"
)

// clusterNodes reads the answer to CLUSTER NODES: https://redis.io/docs/latest/commands/cluster-nodes. The host is of
// the node that answered, which may not know its own address. Nodes that are gone are left out.
func clusterNodes(table, host string) (nodes []identity) {
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 8 {
			continue
		}
		flags := "," + fields[2] + ","
		if strings.Contains(flags, ",fail,") || strings.Contains(flags, ",noaddr,") ||
			strings.Contains(flags, ",handshake,") {
			continue
		}
		addr, _, _ := strings.Cut(fields[1], "@")
		if port, found := strings.CutPrefix(addr, ":"); found {
			addr = net.JoinHostPort(host, port)
		}
		role := replica
		if strings.Contains(flags, ",master,") {
			role = master
		}
		nodes = append(nodes, identity{addr, role})
	}
	return nodes
}

// quiet are options for one connection that stays, without commands of the library's own.
func quiet(o *redis.Options) *redis.Options {
	mine := *o
	mine.PoolSize, mine.PipelinePoolSize, mine.DisableIdentity = 1, -1, true
	mine.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return &mine
}

// node is one server, with a connection to ask it and one that watches it.
type node struct {
	identity
	runID   string
	client  *redis.Client
	monitor *monitor // nil of a replica: its scripts are its master's
	// elsewhere are the addresses of those that are no replica of the service: Sentinels and Redis's own replicas.
	elsewhere map[string]bool
}

func openNode(ctx context.Context, who identity, o *redis.Options) (*node, error) {
	n := &node{identity: who, client: redis.NewClient(quiet(o)), elsewhere: map[string]bool{}}
	info, err := n.client.InfoMap(ctx, "server").Result()
	if err == nil && who.role == master {
		n.monitor, err = startMonitor(ctx, o)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("redis %s: %w", who.addr, err), n.client.Close())
	}
	n.runID = info["Server"]["run_id"]
	return n, nil
}

func (n *node) close() error {
	if n.monitor != nil {
		n.monitor.close()
	}
	return n.client.Close()
}

// count adds what the server has counted. Of a replica that is what was rejected and what sets up connections: all else
// came from its master.
func (n *node) count(ctx context.Context, commands, aside map[string]int64) error {
	info, err := n.client.InfoMap(ctx, "server", "commandstats").Result()
	if err != nil {
		return fmt.Errorf("%w: redis %s does not answer: %w", ErrCountsLost, n.addr, err)
	}
	if is := info["Server"]["run_id"]; is != n.runID {
		return fmt.Errorf("%w: redis %s was restarted (run_id %s, before %s)", ErrCountsLost, n.addr, is, n.runID)
	}
	for key, line := range info["Commandstats"] {
		name := strings.ToUpper(strings.ReplaceAll(strings.TrimPrefix(key, "cmdstat_"), "|", " "))
		calls, rejected, fault := parseStat(line)
		if n.role == replica && !setsUpConnection[name] {
			calls = 0
		}
		counts := commands
		if onlyOthersSend[name] {
			counts = aside
		}
		if calls+rejected > 0 {
			counts[name] += calls + rejected
		}
		err = errors.Join(err, fault)
	}
	return err
}

// told is what a monitor has seen that no replica of the service sent.
type told struct{ inScripts, elsewhere map[string]int64 }

// watched adds what the monitor has seen up to now.
func (n *node) watched(ctx context.Context, t told) error {
	if n.monitor == nil {
		return nil
	}
	clients, err := n.client.ClientList(ctx).Result()
	if err != nil {
		return fmt.Errorf("redis %s: %w", n.addr, err)
	}
	for _, addr := range notOurClients(clients) {
		n.elsewhere[addr] = true
	}
	seen, err := n.monitor.upTo(ctx, n.client)
	if err != nil {
		return fmt.Errorf("redis %s: %w", n.addr, err)
	}
	addAll(t.inScripts, seen.inScripts)
	for addr := range n.elsewhere {
		addAll(t.elsewhere, seen.bySender[addr])
	}
	return nil
}

// notOurClients are the addresses of Sentinels, which name their connections, and of Redis's own replicas, in an answer
// to CLIENT LIST.
func notOurClients(list string) (addrs []string) {
	for line := range strings.Lines(list) {
		fields := map[string]string{}
		for field := range strings.FieldsSeq(line) {
			name, value, _ := strings.Cut(field, "=")
			fields[name] = value
		}
		if strings.HasPrefix(fields["name"], "sentinel-") || strings.Contains(fields["flags"], "S") {
			addrs = append(addrs, fields["addr"])
		}
	}
	return addrs
}

func addAll(sums, more map[string]int64) {
	for name, n := range more {
		sums[name] += n
	}
}

// without is a with b taken away, and only what is left of it.
func without(a, b map[string]int64) map[string]int64 {
	left := maps.Clone(a)
	for name, n := range b {
		if left[name] -= n; left[name] == 0 {
			delete(left, name)
		}
	}
	return left
}
