package buffer_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"nervous/app/buffer"
	"nervous/app/servicetest"
)

// A user who may not SCRIPT LOAD adds and flushes, also after a SCRIPT FLUSH.
func TestAdd_UserWithoutScriptLoad(t *testing.T) {
	t.Parallel()
	b, l := oneRedis(t), newLedger(t, 25_000)
	admin := connect(t, b.nodes[0])
	require.NoError(t, admin.Do(t.Context(),
		"ACL", "SETUSER", "app", "on", ">pw", "~default:*", "~buffer*", "+@all", "-script", "-@admin").Err())
	options := b.nodes[0].Options()
	options.Username, options.Password = "app", "pw"
	rdb := redis.NewClient(options)
	t.Cleanup(func() { _ = rdb.Close() })
	require.ErrorContains(t, rdb.ScriptLoad(t.Context(), "return 1").Err(), "NOPERM")

	buf := buffer.New(rdb, l.pool, buffer.Options[int64]{Name: family, Apply: mark}).Open(live)
	for _, p := range []Payments{{live, 1, 1}, {live, 2, 25_000}} {
		require.NoError(t, admin.ScriptFlush(t.Context()).Err())
		require.NoError(t, buf.Add(t.Context(), p.ids()...))
	}
	require.NoError(t, admin.ScriptFlush(t.Context()).Err())
	_, err := buf.Flush(t.Context())
	require.NoError(t, err)
	l.holds(t, 1, 25_000)
}

// Redis answers, and refuses: Add says so, and counts what its caller must bring to the database itself. What was
// accepted before and after is applied.
func TestAdd_RedisRefuses(t *testing.T) {
	t.Parallel()
	configured := func(parameter, value string) func(*testing.T, *servicetest.RedisServer) {
		return func(t *testing.T, server *servicetest.RedisServer) {
			require.NoError(t, connect(t, server).ConfigSet(t.Context(), parameter, value).Err())
		}
	}
	for want, fault := range map[string]struct {
		begin, end func(*testing.T, *servicetest.RedisServer)
	}{
		"OOM": {configured("maxmemory", "1"), configured("maxmemory", "0")},
		"READONLY": {
			func(t *testing.T, server *servicetest.RedisServer) { // demoted, as by a Sentinel
				require.NoError(t, connect(t, server).Do(t.Context(), "REPLICAOF", "127.0.0.1", server.Port).Err())
			},
			func(t *testing.T, server *servicetest.RedisServer) {
				require.NoError(t, connect(t, server).Do(t.Context(), "REPLICAOF", "NO", "ONE").Err())
			},
		},
		"MISCONF":    {snapshotsFail, configured("save", "")},
		"NOREPLICAS": {configured("min-replicas-to-write", "1"), configured("min-replicas-to-write", "0")},
		"script": { // the user may not run a command in it
			func(t *testing.T, server *servicetest.RedisServer) {
				require.NoError(t, connect(t, server).Do(t.Context(), "ACL", "SETUSER", "default", "-sadd").Err())
			},
			func(t *testing.T, server *servicetest.RedisServer) {
				require.NoError(t, connect(t, server).Do(t.Context(), "ACL", "SETUSER", "default", "+@all").Err())
			},
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			b, l := oneRedis(t), newLedger(t, payments)
			w := startProcess(t, b, l, settings{FlushAge: often, Lease: time.Second, Run: true, Continuous: []string{live}})
			w.add(live, 1, 100)
			l.settled(t, 1, 100)

			fault.begin(t, b.nodes[0])
			err := w.Try("Add", Payments{live, 101, 200}, new(string))
			require.ErrorContains(t, err, want)
			require.Equal(t, map[string]float64{"added": 100, "refused": 100}, w.Metric(buffer.MetricAdds, "outcome"))

			fault.end(t, b.nodes[0])
			w.add(live, 201, 300)
			l.settled(t, 201, 300)
			require.Zero(t, l.marked(t, 101, 200))
		})
	}
}

// snapshotsFail has Redis fail to save its data, after which it refuses writes.
func snapshotsFail(t *testing.T, server *servicetest.RedisServer) {
	t.Helper()
	rdb := connect(t, server)
	require.NoError(t, rdb.ConfigSet(t.Context(), "save", "3600 1").Err())
	// A directory of that name is in the way of the file.
	blocked := filepath.Join(server.Dir, "dump.rdb")
	require.NoError(t, os.MkdirAll(filepath.Join(blocked, "full"), 0o755))
	_ = rdb.BgSave(t.Context()).Err() // refused at once or failing later
	eventually(t, func() bool {
		info, err := rdb.Info(t.Context(), "persistence").Result()
		require.NoError(t, err)
		return strings.Contains(info, "rdb_last_bgsave_status:err")
	})
}

// All of Redis's connections are taken. Who has one goes on, who needs one is refused.
func TestAdd_NoConnectionIsLeft(t *testing.T) {
	t.Parallel()
	b, l := oneRedis(t), newLedger(t, payments)
	admin := connect(t, b.nodes[0])
	require.NoError(t, admin.Ping(t.Context()).Err())
	first := newBuffer(t, b, l)
	require.NoError(t, first.Add(t.Context(), 4))
	require.NoError(t, admin.ConfigSet(t.Context(), "maxclients", "1").Err())

	late := newBuffer(t, b, l)
	require.Error(t, late.Add(t.Context(), 5), "its connection is closed, sometimes before the reason can be read")
	require.NoError(t, first.Add(t.Context(), 6))
	require.NoError(t, admin.ConfigSet(t.Context(), "maxclients", "100").Err())
	require.NoError(t, late.Add(t.Context(), 7))
	_, err := first.Flush(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, l.marked(t, 1, 10))
}

// A buffer's slot moves to another node while ids are added and flushed. An Add accepts or returns an error, also while
// it is redirected (ASK, MOVED, TRYAGAIN), and what was accepted is applied once.
func TestAdd_SlotMoves(t *testing.T) {
	t.Parallel()
	b := aCluster(t)
	const most = 5_000
	l := newLedger(t, most)
	w := startProcess(t, b, l, settings{FlushAge: often, Lease: time.Second, Run: true, Continuous: []string{live}})
	var accepted []int64
	refused := 0
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for id := int64(1); id <= most; id++ {
			select {
			case <-stop:
				return
			default:
			}
			if w.Try("Add", Payments{live, id, id}, new(string)) == nil {
				accepted = append(accepted, id)
			} else {
				refused++
			}
		}
	}()
	for range 6 {
		from := b.owner(t, member)
		for _, to := range b.nodes {
			if to != from {
				require.NoError(t, migrate(t, b, to))
				break
			}
		}
	}
	close(stop)
	<-stopped
	t.Logf("%d ids were accepted and %d refused", len(accepted), refused)
	require.NotEmpty(t, accepted)
	b.empty(t, member)
	for _, id := range accepted {
		if agree(id, id) == 1 {
			require.EqualValues(t, 1, l.marked(t, id, id), "payment %d", id)
		}
	}
	require.Empty(t, b.orphans(t))
}

// migrate moves the live buffer's slot. It waits midway until the redirected client has been answered.
func migrate(t *testing.T, b backend, to *servicetest.RedisServer) (err error) {
	t.Helper()
	for range 5 { // a flush may make a new key while the keys move
		if err = b.cluster.Migrate(t.Context(), key(member, "open"), to); err == nil {
			return nil
		}
	}
	return errors.Join(errors.New("the slot did not move"), err)
}
