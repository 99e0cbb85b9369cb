package audit

import (
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

func TestClusterNodes_ThoseThatTakePart(t *testing.T) {
	t.Parallel()
	const table = `07c3 127.0.0.1:30004@31004,hostname4 slave e7d1 0 1426238317239 4 connected
67ed 127.0.0.1:30002@31002 master - 0 1426238316232 2 connected 5461-10922
292f 10.0.0.3:30003@31003 master,fail - 0 1426238318243 3 connected
6ec2 :0@0 slave,noaddr e7d1 0 1426238316232 5 disconnected
e7d1 :30001@31001 myself,master - 0 0 1 connected 0-5460

`
	require.Equal(t, []identity{
		{"127.0.0.1:30004", replica}, {"127.0.0.1:30002", master}, {"192.0.2.1:30001", master},
	}, clusterNodes(table, "192.0.2.1"))
}

func TestNotOurClients_SentinelsAndReplicas(t *testing.T) {
	t.Parallel()
	const list = `id=3 addr=127.0.0.1:1 laddr=127.0.0.1:9 fd=8 name=sentinel-3f6-cmd age=1 flags=N db=0
id=4 addr=127.0.0.1:2 laddr=127.0.0.1:9 fd=9 name= age=1 flags=S db=0
id=5 addr=127.0.0.1:3 laddr=127.0.0.1:9 fd=10 name=app age=1 flags=N db=0 user=default
`
	require.Equal(t, []string{"127.0.0.1:1", "127.0.0.1:2"}, notOurClients(list))
}

func TestParseStat_CallsAndRejected(t *testing.T) {
	t.Parallel()
	calls, rejected, err := parseStat("calls=7,usec=1,usec_per_call=0.14,rejected_calls=2,failed_calls=1")
	require.NoError(t, err)
	require.Equal(t, []int64{7, 2}, []int64{calls, rejected})
	_, _, err = parseStat("calls=many")
	require.Error(t, err)
}

// The password may have any character, and MONITOR works with TLS.
func TestMonitor_TLSAndAuthentication(t *testing.T) {
	t.Parallel()
	server := servicetest.RedisTLS(t)
	options := server.Options()
	n, err := openNode(t.Context(), identity{server.Addr(), master}, options)
	require.NoError(t, err)
	t.Cleanup(func() { _ = n.close() })
	const password = `a "b" c\r`
	user := []any{"ACL", "SETUSER", "auditor", "on", ">" + password, "~*", "&*", "+@all"}
	require.NoError(t, n.client.Do(t.Context(), user...).Err())

	mine := server.Options()
	mine.Username, mine.Password = "auditor", password
	watcher, err := openNode(t.Context(), identity{server.Addr(), master}, mine)
	require.NoError(t, err)
	t.Cleanup(func() { _ = watcher.close() })
	require.NoError(t, watcher.client.Eval(t.Context(), "return redis.call('SET', KEYS[1], 'v')", []string{"k"}).Err())
	seen := told{map[string]int64{}, map[string]int64{}}
	require.NoError(t, watcher.watched(t.Context(), seen))
	require.Equal(t, map[string]int64{"SET": 1}, seen.inScripts)

	wrong := server.Options()
	wrong.Username, wrong.Password = "auditor", "wrong"
	_, err = startMonitor(t.Context(), wrong)
	require.ErrorContains(t, err, "WRONGPASS")
}

func TestNode_CountsAreLostByARestart(t *testing.T) {
	t.Parallel()
	server := servicetest.Redis(t)
	n, err := openNode(t.Context(), identity{server.Addr(), master}, server.Options())
	require.NoError(t, err)
	t.Cleanup(func() { _ = n.close() })
	commands, aside := map[string]int64{}, map[string]int64{}
	require.NoError(t, n.count(t.Context(), commands, aside))
	require.Positive(t, commands["HELLO"])
	require.NoError(t, server.Kill())
	require.ErrorIs(t, n.count(t.Context(), commands, aside), ErrCountsLost)
	require.NoError(t, server.Restart(t.Context()))
	err = n.count(t.Context(), commands, aside)
	require.ErrorIs(t, err, ErrCountsLost)
	require.ErrorContains(t, err, server.Addr())
}
