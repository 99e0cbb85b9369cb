package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Of a Prometheus that has seen nothing every query is empty, and each is named.
func TestQueriesWithoutDataAreCounted(t *testing.T) {
	t.Parallel()
	empty := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/v1/label/") {
			_, _ = io.WriteString(w, `{"status": "success", "data": []}`)
			return
		}
		_, _ = io.WriteString(w, `{"status": "success", "data": {"resultType": "vector", "result": []}}`)
	}))
	t.Cleanup(empty.Close)
	address, err := url.Parse(empty.URL)
	require.NoError(t, err)
	port, err := strconv.Atoi(address.Port())
	require.NoError(t, err)

	var told strings.Builder
	d := &deployment{root: "../..", at: addresses{prometheus: place{port: port}}, out: &told, started: time.Now()}
	found, err := d.dashboards(t.Context())
	require.NoError(t, err)
	require.Greater(t, *found.empty(), 150.0)
	require.Contains(t, told.String(), `"Hit ratio now", query A is empty: `)
	require.Contains(t, told.String(), `variable "instance" is empty: `)
	require.Contains(t, told.String(), `annotation "Load: phases" is empty: `)
}

// That the question could not be asked is not an answer.
func TestDashboardsThatCannotBeAskedAreAnError(t *testing.T) {
	t.Parallel()
	d := &deployment{root: t.TempDir(), out: io.Discard}
	_, err := d.dashboards(t.Context())
	require.ErrorContains(t, err, "could not be asked")
}
