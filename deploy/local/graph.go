package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
)

// graph answers at the address of the moving graph for as long as the deployment is up: before the load script starts
// with a page that waits for it, while it runs with k6's own dashboard, afterwards with the report that k6 leaves.
//
// It stands in front of k6 because k6 does not end, nor write its results, while a browser has its dashboard open: the
// stream of events ends here when the script does, and the page keeps what it shows.
type graph struct {
	live   atomic.Pointer[httputil.ReverseProxy] // while the script runs
	report atomic.Pointer[string]                // the path of the page that k6 left
}

const graphNotYet = `<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="1">
<title>Nervous System</title><body style="font-family: sans-serif; margin: 20vh auto; max-width: 32em">
<h1>Not yet</h1><p>The load script has not started. This page turns into its graph by itself.</p>`

func (g *graph) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	live, report := g.live.Load(), g.report.Load()
	switch {
	case live != nil:
		live.ServeHTTP(w, r)
	case r.URL.Path == "/events":
		w.WriteHeader(http.StatusNoContent) // tells the page's EventSource not to come again
	case report != nil:
		http.ServeFile(w, r, *report)
	default:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, graphNotYet)
	}
}

// begin shows the dashboard at the given address.
func (g *graph) begin(dashboard *url.URL) {
	g.live.Store(&httputil.ReverseProxy{
		Rewrite:        func(p *httputil.ProxyRequest) { p.SetURL(dashboard) },
		FlushInterval:  -1,
		ModifyResponse: endWithTheScript,
		// k6 is about to listen, or has just ended: both end by trying again.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = io.WriteString(w, graphNotYet)
		},
	})
}

// finish shows the report from now on, if the script ran long enough for one.
func (g *graph) finish(report string) {
	if _, err := os.Stat(report); err == nil {
		g.report.Store(&report)
	}
	g.live.Store(nil)
}

// endWithTheScript ends a stream of events after the one that says that the script has stopped.
func endWithTheScript(answer *http.Response) error {
	if strings.HasPrefix(answer.Header.Get("Content-Type"), "text/event-stream") {
		answer.Body = &untilStop{ReadCloser: answer.Body}
	}
	return nil
}

// untilStop reads a stream of events up to and with its `stop` event.
type untilStop struct {
	io.ReadCloser
	tail    []byte // of what was read, since the last end of an event
	stopped bool
}

func (u *untilStop) Read(p []byte) (int, error) {
	if u.stopped {
		return 0, io.EOF
	}
	n, err := u.ReadCloser.Read(p)
	u.tail = append(u.tail, p[:n]...)
	for {
		event, rest, whole := bytes.Cut(u.tail, []byte("\n\n"))
		if !whole {
			break
		}
		u.tail = rest
		u.stopped = u.stopped || slices.Contains(strings.Split(string(event), "\n"), "event: stop")
	}
	return n, err
}
