package main

import (
	"net"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestATakenPortIsNamedWithItsPartAndTheRemedy(t *testing.T) {
	t.Parallel()
	door, grafana := occupied(t), occupied(t)
	err := allFree([]place{
		{door, "the front door", "-port N"},
		{port: grafana, part: "Tempo (tempo)"},
	})
	require.EqualError(t, err, "nothing was started, because these ports cannot be had "+
		"(another ./deploy/local/up, or docker compose, would hold them):\n"+
		"  "+strconv.Itoa(door)+", for the front door: another program answers there; start with -port N\n"+
		"  "+strconv.Itoa(grafana)+", for Tempo (tempo): another program answers there; "+
		"free it, or take the program off PATH: it is optional\n")
}

func TestAFreePortIsFree(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	require.NoError(t, listener.Close())
	require.NoError(t, allFree([]place{{port: port}}))
}

func TestChoosePorts(t *testing.T) {
	t.Parallel()
	a, err := choose(9000, environment{"GRAPH_PORT": "5666"}.get)
	require.NoError(t, err)
	require.Equal(t, "http://127.0.0.1:9000", a.door.url())
	require.Equal(t, "127.0.0.1:9003", a.replicas[2].address(), "the replicas follow the door")
	require.Equal(t, "127.0.0.1:9013", a.admins[2].address())
	require.Equal(t, 5666, a.graph.port)
	require.Equal(t, 9090, a.prometheus.port)

	_, err = choose(9000, environment{"GRAPH_PORT": "here"}.get)
	require.EqualError(t, err, "GRAPH_PORT=here is not a port")
}

type environment map[string]string

func (e environment) get(name string) string { return e[name] }

// occupied returns a port at which somebody answers.
func occupied(t *testing.T) int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	return listener.Addr().(*net.TCPAddr).Port
}
