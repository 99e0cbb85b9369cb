package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"nervous/app/identity"
)

const secret = "a secret of the tests, long enough"

// It is not parallel: it listens to the process's log.
func TestWithoutTheScopeTheDoorStaysShut(t *testing.T) {
	var exported bytes.Buffer
	previous := slog.Default()
	slog.SetDefault(slog.New(slog.NewJSONHandler(&exported, nil)))
	defer slog.SetDefault(previous)
	spans, metrics := tracetest.NewInMemoryExporter(), sdkmetric.NewManualReader()

	tokens := identity.New(secret)
	opened := 0
	e := echo.New()
	e.HTTPErrorHandler = answerProblem
	e.Use(nameRoute, account("test-1"), identify(tokens))
	e.POST("/reconcile", func(c echo.Context) error {
		opened++
		return c.NoContent(http.StatusAccepted)
	}, requireScope("reconcile"))
	server := httptest.NewServer(otelhttp.NewHandler(e, "http.server",
		otelhttp.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))),
		otelhttp.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(metrics))),
	))
	defer server.Close()

	mint := func(tokens identity.Tokens, scopes ...string) string {
		token, err := tokens.Mint(identity.Caller{User: "42", Scopes: scopes}, time.Hour)
		require.NoError(t, err)
		return token
	}
	good := mint(tokens, "reset", "reconcile")
	stranger := mint(identity.New("another secret, which is as long.."), "reconcile")
	const invalid = `Bearer error="invalid_token"`

	for _, c := range []struct {
		name, authorization string
		status              int
		challenge, detail   string
	}{
		{"good", "Bearer " + good, http.StatusAccepted, "", ""},
		{"none", "", http.StatusUnauthorized, "Bearer", "no bearer token"},
		{"Basic", "Basic NDI6cGFzc3dvcmQ=", http.StatusUnauthorized, "Bearer", "no bearer token"},
		{"tampered", "Bearer " + good[:20] + "A" + good[20:], http.StatusUnauthorized, invalid, "not valid"},
		{"of a stranger", "Bearer " + stranger, http.StatusUnauthorized, invalid, "not signed"},
		{"huge", "Bearer " + strings.Repeat("A", 1<<19), http.StatusUnauthorized, invalid, "not a JWT"},
		{
			"without the scope", "Bearer " + mint(tokens, "reset", "reconciled"), http.StatusForbidden,
			`Bearer error="insufficient_scope", scope="reconcile"`, `the scope "reconcile"`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/reconcile", nil)
			require.NoError(t, err)
			if c.authorization != "" {
				request.Header.Set("Authorization", c.authorization)
			}
			answer, err := server.Client().Do(request)
			require.NoError(t, err)
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			require.NoError(t, err)

			require.Equal(t, c.status, answer.StatusCode, "%s", body)
			require.Equal(t, c.challenge, answer.Header.Get("WWW-Authenticate"))
			if c.status == http.StatusAccepted {
				return
			}
			require.Equal(t, "application/problem+json", answer.Header.Get("Content-Type"))
			var got problem
			require.NoError(t, json.Unmarshal(body, &got))
			require.Equal(t, c.status, got.Status)
			require.NotEmpty(t, got.Title)
			require.Contains(t, got.Detail, c.detail)
			require.Equal(t, "authorization", got.Field)
			require.NotEmpty(t, got.TraceID)
			exported.Write(body)
		})
	}
	require.Equal(t, 1, opened, "only the good one came through")

	require.NotEmpty(t, spans.GetSpans())
	var collected metricdata.ResourceMetrics
	require.NoError(t, metrics.Collect(t.Context(), &collected))
	require.NotEmpty(t, collected.ScopeMetrics)
	fmt.Fprintf(&exported, "%+v %+v", spans.GetSpans(), collected)
	for _, token := range []string{good, stranger} {
		for part := range strings.SplitSeq(token, ".") {
			require.NotContains(t, exported.String(), part, "a token reached an answer, a log, a span or a metric")
		}
	}
	require.NotContains(t, exported.String(), secret)
}
