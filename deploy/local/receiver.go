package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// maxExport bounds one request's body: a full batch of 2,048 spans is about 2 MB.
const maxExport = 64 << 20

// traceReceiver answers OTLP over HTTP (protobuf) at /v1/traces and puts what arrives into memory. Where a collector
// runs, every export goes on to it unchanged: so a wait can be shown here whatever the collector's sampling keeps. A
// collector that does not answer costs this receiver nothing: the export is accepted all the same.
type traceReceiver struct {
	memory  *traceMemory
	forward string // the collector's URL for traces, or ""
}

func (r *traceReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodPost || req.URL.Path != "/v1/traces" {
		http.NotFound(w, req)
		return
	}
	sent, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxExport))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	plain, err := decompress(req.Header.Get("Content-Encoding"), sent)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var export coltracepb.ExportTraceServiceRequest
	if err := proto.Unmarshal(plain, &export); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.memory.add(export.GetResourceSpans())
	if r.forward != "" {
		r.pass(req.Context(), req.Header, sent)
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	// An empty answer is the protocol's "everything was accepted".
}

func (r *traceReceiver) pass(ctx context.Context, header http.Header, body []byte) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.forward, bytes.NewReader(body))
	if err != nil {
		return
	}
	for _, name := range []string{"Content-Type", "Content-Encoding"} {
		if value := header.Get(name); value != "" {
			req.Header.Set(name, value)
		}
	}
	if answer, err := http.DefaultClient.Do(req); err == nil {
		answer.Body.Close()
	}
}

func decompress(encoding string, body []byte) ([]byte, error) {
	switch encoding {
	case "", "identity":
		return body, nil
	case "gzip":
		reader, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(io.LimitReader(reader, maxExport))
	}
	return nil, errors.New("content encoding " + encoding + " is not supported")
}
