package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"nervous/app/postgresurl"
	"nervous/app/telemetry"
)

// counted is what the servers have counted since they started.
type counted struct {
	commands   map[string]int64 // of Redis, by name as spans have it: SCRIPT LOAD
	aside      map[string]int64 // those that only others send
	statements map[string]int64 // of our role, by name
	others     int64            // statements of other roles, and the audit's own
	forgotten  int64            // how often Postgres forgot statements for want of room
}

// same says whether nothing was counted that a replica may have sent.
func (c counted) same(other counted) bool {
	return maps.Equal(c.commands, other.commands) && maps.Equal(c.statements, other.statements)
}

// Commands that no replica of the service sends: those of health checks, of the usual exporter, of Redis's own
// replicas, and of this audit.
var onlyOthersSend = map[string]bool{
	"ECHO": true, "INFO": true, "MONITOR": true, "CONFIG GET": true, "SLOWLOG GET": true, "SLOWLOG LEN": true,
	"LATENCY LATEST": true, "LATENCY HISTOGRAM": true, "CLIENT LIST": true, "CLIENT SETNAME": true, "MEMORY STATS": true,
	"CLUSTER NODES": true, "PSYNC": true, "REPLCONF": true,
}

// Commands that a client of a Cluster may send to any node, a replica too.
var setsUpConnection = map[string]bool{
	"HELLO": true, "AUTH": true, "CLUSTER SLOTS": true, "CLUSTER SHARDS": true, "COMMAND": true, "SCRIPT LOAD": true,
	"CLIENT SETINFO": true,
}

// servers are asked over connections that no hook sees.
type servers struct {
	topology topology
	nodes    []*node
	postgres *pgx.Conn
}

func connect(ctx context.Context, o Options) (*servers, error) {
	topology, err := newTopology(o.RedisURL)
	if err != nil {
		return nil, err
	}
	s := &servers{topology: topology}
	who, err := topology.find(ctx)
	for i := 0; i < len(who) && err == nil; i++ {
		var n *node
		if n, err = openNode(ctx, who[i], topology.open(who[i].addr)); err == nil {
			s.nodes = append(s.nodes, n)
		}
	}
	if err == nil {
		s.postgres, err = postgresurl.Connect(ctx, o.DatabaseURL, "nervous audit")
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *servers) close() error {
	err := s.topology.close()
	for _, n := range s.nodes {
		err = errors.Join(err, n.close())
	}
	if s.postgres != nil {
		err = errors.Join(err, s.postgres.Close(context.Background()))
	}
	return err
}

// same returns an error unless the servers are those that they were when the audit began.
func (s *servers) same(ctx context.Context) error {
	are, err := s.topology.find(ctx)
	if err != nil {
		return err
	}
	roles := map[string]string{}
	for _, who := range are {
		roles[who.addr] = who.role
	}
	var changes []string
	for _, n := range s.nodes {
		switch now := roles[n.addr]; now {
		case n.role:
		case "":
			changes = append(changes, fmt.Sprintf("%s was a %s and is gone", n.addr, n.role))
		default:
			changes = append(changes, fmt.Sprintf("%s was a %s and is a %s", n.addr, n.role, now))
		}
		delete(roles, n.addr)
	}
	for addr, role := range roles {
		changes = append(changes, fmt.Sprintf("%s was not there and is a %s", addr, role))
	}
	if len(changes) == 0 {
		return nil
	}
	slices.Sort(changes)
	return fmt.Errorf("%w: redis %s", ErrCountsLost, strings.Join(changes, ", "))
}

func (s *servers) count(ctx context.Context) (c counted, err error) {
	c.commands, c.aside = map[string]int64{}, map[string]int64{}
	for _, n := range s.nodes {
		if err := n.count(ctx, c.commands, c.aside); err != nil {
			return c, err
		}
	}
	if err := s.countStatements(ctx, &c); err != nil {
		return c, fmt.Errorf("pg_stat_statements, which must be preloaded and created in this database: %w", err)
	}
	return c, nil
}

// watched is what all monitors have seen until now.
func (s *servers) watched(ctx context.Context) (told, error) {
	t := told{map[string]int64{}, map[string]int64{}}
	for _, n := range s.nodes {
		if err := n.watched(ctx, t); err != nil {
			return t, err
		}
	}
	return t, nil
}

// parseStat reads a line of commandstats. A call that was rejected has a span like any other: who makes the span cannot
// know that the command came to nothing.
func parseStat(line string) (calls, rejected int64, err error) {
	for field := range strings.SplitSeq(line, ",") {
		what, number, _ := strings.Cut(field, "=")
		var fault error
		switch what {
		case "calls":
			calls, fault = strconv.ParseInt(number, 10, 64)
		case "rejected_calls":
			rejected, fault = strconv.ParseInt(number, 10, 64)
		}
		err = errors.Join(err, fault)
	}
	return calls, rejected, err
}

// countStatements counts what succeeded, by name. What a function runs inside is part of its statement.
func (s *servers) countStatements(ctx context.Context, c *counted) error {
	const read = `
SELECT coalesce(query, ''), calls,
       userid = (SELECT oid FROM pg_roles WHERE rolname = current_user),
       (SELECT dealloc FROM pg_stat_statements_info)
FROM pg_stat_statements
WHERE toplevel AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())`
	c.statements = map[string]int64{}
	var query string
	var calls int64
	var ours bool
	rows, err := s.postgres.Query(ctx, read)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, []any{&query, &calls, &ours, &c.forgotten}, func() error {
		if ours && !strings.Contains(query, "pg_stat_statements") {
			c.statements[telemetry.StatementName(query)] += calls
		} else {
			c.others += calls
		}
		return nil
	})
	return err
}
