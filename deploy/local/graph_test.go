package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheGraphWaitsShowsAndKeeps(t *testing.T) {
	t.Parallel()
	g := &graph{}
	page := httptest.NewServer(g)
	defer page.Close()

	status, body := get(t, page.URL+"/ui/")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "has not started")

	// k6 keeps the stream open after its stop event, for as long as somebody reads it.
	browserGone := make(chan struct{})
	k6 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/events" {
			_, _ = io.WriteString(w, "dashboard")
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for _, event := range []string{"id: 1\nevent: snapshot\ndata: {}\n\n", "id: 2\nevent: st", "op\nretry: 9\n\n"} {
			_, _ = io.WriteString(w, event)
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
		close(browserGone)
	}))
	defer k6.Close()
	dashboard, err := url.Parse(k6.URL)
	require.NoError(t, err)
	g.begin(dashboard)

	_, body = get(t, page.URL+"/ui/")
	require.Equal(t, "dashboard", body)
	_, body = get(t, page.URL+"/events")
	require.Equal(t, "id: 1\nevent: snapshot\ndata: {}\n\nid: 2\nevent: stop\nretry: 9\n\n", body)
	<-browserGone // so k6 can end

	k6.Close()
	_, body = get(t, page.URL+"/ui/")
	require.Contains(t, body, "has not started", "k6 has gone and its report is not there yet")

	report := filepath.Join(t.TempDir(), "report.html")
	require.NoError(t, os.WriteFile(report, []byte("report"), 0o600))
	g.finish(report)
	_, body = get(t, page.URL+"/ui/")
	require.Equal(t, "report", body)
	status, _ = get(t, page.URL+"/events")
	require.Equal(t, http.StatusNoContent, status, "a page that still asks for events is told to stop")
}

func get(t *testing.T, address string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, string(content)
}
