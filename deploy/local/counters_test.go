package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestACounterIsReadOrTheFaultTold(t *testing.T) {
	t.Parallel()
	answer := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, answer, r.FormValue("query"))
	}))
	defer server.Close()
	d := &deployment{at: addresses{prometheus: place{port: server.Listener.Addr().(*net.TCPAddr).Port}}}

	answer = `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"q":%q},"value":[1.5,"42"]}]}}`
	found, err := d.counted(t.Context(), `a_total{b="c"}`)
	require.NoError(t, err)
	require.InDelta(t, 42, found, 0)

	answer = `{"status":"error","error":"cannot parse %s"}`
	_, err = d.counted(t.Context(), "a_total{")
	require.ErrorContains(t, err, "cannot parse sum(a_total{) or vector(0)")
}
