package main

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"
	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"

	"nervous/app/api"
	"nervous/app/buffer"
	"nervous/app/cache"
	"nervous/app/ratelimit"
	"nervous/app/reconcile"
	"nervous/app/servicetest/otlp"
	"nervous/app/telemetry"
)

// instrument is what a metric promises to whoever builds on it.
type instrument struct{ unit, kind string }

// Metrics of the semantic conventions, by their names and units; those of the runtime and of the SDK itself are told by
// their prefix.
var conventionalMetrics = map[string]instrument{
	httpconv.ServerRequestDuration{}.Name():  {httpconv.ServerRequestDuration{}.Unit(), "histogram"},
	httpconv.ServerRequestBodySize{}.Name():  {httpconv.ServerRequestBodySize{}.Unit(), "histogram"},
	httpconv.ServerResponseBodySize{}.Name(): {httpconv.ServerResponseBodySize{}.Unit(), "histogram"},
	dbconv.ClientOperationDuration{}.Name():  {dbconv.ClientOperationDuration{}.Unit(), "histogram"},
	dbconv.ClientConnectionCount{}.Name():    {dbconv.ClientConnectionCount{}.Unit(), "updown"},
	dbconv.ClientConnectionMax{}.Name():      {dbconv.ClientConnectionMax{}.Unit(), "updown"},
	dbconv.ClientConnectionTimeouts{}.Name(): {dbconv.ClientConnectionTimeouts{}.Unit(), "counter"},
}

// Metrics for which the conventions have no name.
var ourMetrics = map[string]instrument{
	cache.MetricRequests:           {"{request}", "counter"},
	cache.MetricFills:              {"{fill}", "counter"},
	cache.MetricFillDuration:       {"s", "histogram"},
	cache.MetricLeaseRequests:      {"{request}", "counter"},
	cache.MetricLeaseWait:          {"s", "histogram"},
	cache.MetricWaits:              {"{request}", "counter"},
	cache.MetricWaiters:            {"{request}", "updown"},
	cache.MetricValueAge:           {"s", "histogram"},
	cache.MetricRefused:            {"{value}", "counter"},
	cache.MetricTTL:                {"s", "gauge"},
	cache.MetricDeletes:            {"{deletion}", "counter"},
	cache.MetricReduced:            {"{capability}", "gauge"},
	cache.MetricBreaker:            {"{state}", "gauge"},
	buffer.MetricDepth:             {"{item}", "gauge"},
	buffer.MetricGenerations:       {"{generation}", "gauge"},
	buffer.MetricOldestAge:         {"s", "gauge"},
	buffer.MetricAdds:              {"{item}", "counter"},
	buffer.MetricFlushItems:        {"{item}", "histogram"},
	buffer.MetricFlushDuration:     {"s", "histogram"},
	buffer.MetricFlushes:           {"{flush}", "counter"},
	buffer.MetricDropped:           {"{item}", "counter"},
	reconcile.MetricItems:          {"{payment}", "counter"},
	reconcile.MetricProgress:       {"1", "gauge"},
	reconcile.MetricDuration:       {"s", "histogram"},
	reconcile.MetricLastEnded:      {"s", "gauge"},
	reconcile.MetricLastRoundTrips: {"{round_trip}", "gauge"},
	reconcile.MetricLastPayments:   {"{payment}", "gauge"},
	reconcile.MetricTakeovers:      {"{job}", "counter"},
	reconcile.MetricEvents:         {"{event}", "counter"},
	reconcile.MetricPayments:       {"{payment}", "gauge"},
	reconcile.MetricReopened:       {"{payment}", "counter"},
	reconcile.MetricDisagreeing:    {"{payment}", "gauge"},
	ratelimit.MetricDecisions:      {"{decision}", "counter"},
	ratelimit.MetricCheckDuration:  {"s", "histogram"},
	ratelimit.MetricLimit:          {"{unit}", "gauge"},
	ratelimit.MetricCallerSpent:    {"{unit}", "gauge"},
	ratelimit.MetricCallersLimited: {"{caller}", "gauge"},
	ratelimit.MetricCallerDenials:  {"{denial}", "gauge"},
	ratelimit.MetricReplicas:       {"{replica}", "gauge"},
	ratelimit.MetricBudget:         {"s", "gauge"},
	ratelimit.MetricBreaker:        {"{state}", "gauge"},
	ratelimit.MetricReduced:        {"{capability}", "gauge"},
	api.MetricRoundTrips:           {"{round_trip}", "histogram"},
	telemetry.StoreRoundTrips:      {"{round_trip}", "counter"},
	telemetry.TelemetrySpans:       {"{span}", "counter"},
	telemetry.TelemetryCalls:       {"{call}", "counter"},
	telemetry.WireCalls:            {"{call}", "counter"},
	telemetry.WireRoundTrips:       {"{round_trip}", "counter"},
	telemetry.ConnectionWaits:      {"{wait}", "counter"},
}

// Attributes of the conventions that appear, on spans or metrics. All are stable but those of connection pools, for
// which there are no other names.
var conventionalAttributes = keys(
	semconv.DBSystemNameKey, semconv.DBNamespaceKey, semconv.DBOperationNameKey, semconv.DBOperationBatchSizeKey,
	semconv.DBQuerySummaryKey, semconv.DBCollectionNameKey, semconv.DBStoredProcedureNameKey,
	semconv.DBResponseStatusCodeKey, semconv.ErrorTypeKey, semconv.ServerAddressKey, semconv.ServerPortKey,
	semconv.HTTPRequestMethodKey, semconv.HTTPRequestMethodOriginalKey, semconv.HTTPResponseStatusCodeKey,
	semconv.HTTPRouteKey, semconv.HTTPRequestBodySizeKey, semconv.HTTPResponseBodySizeKey, semconv.URLSchemeKey,
	semconv.URLPathKey, semconv.UserAgentOriginalKey, semconv.ClientAddressKey, semconv.NetworkPeerAddressKey,
	semconv.NetworkPeerPortKey, semconv.NetworkProtocolNameKey, semconv.NetworkProtocolVersionKey,
	semconv.DBClientConnectionPoolNameKey, semconv.DBClientConnectionStateKey,
)

// Attributes of ours, and why the conventions' do not say it.
var ourAttributes = map[string]string{
	"strategy": "how something is done, which is what this project compares", "cache": "which one",
	"result":  "of a call",
	"outcome": "of work", "cause": "of work", "holder": "the replica whose work is waited for",
	"reason": "of a refusal", "capability": "what Redis refuses to this client",
	"cache.local": "a hit without a round-trip",
	"buffer":      "which family", "origin": "whose generation was flushed", "status": "of payments",
	"policy":   "which limit",
	"degraded": "decided without Redis", "source": "who decided", "store": "postgres or redis",
	"operation": "a route or a job, or what the audit counts by", "system": "the audit's, as db.system.name",
	"cache.name": "which one", "cache.result": "of a call", "cache.strategy": "how",
	"cache.keys":      "of a call for many",
	"cache.value.age": "s", "cache.fill.outcome": "of the fill", "cache.fill.cause": "of the fill",
	"buffer.name": "which family", "buffer.flush.origin": "whose generation", "buffer.flush.outcome": "of the flush",
	"buffer.flush.items": "of the flush", "buffer.flush.applied": "of the flush",
	"reconcile.strategy": "of the run", "reconcile.payments": "of the run", "reconcile.attempt": "of the run",
	"reconcile.state": "of the run", "reconcile.event.path": "of a live event",
	"ratelimit.policy": "which decided", "ratelimit.strategy": "how", "ratelimit.result": "of the check",
	"ratelimit.remaining": "of the limit", "ratelimit.degraded": "decided without Redis",
	"ratelimit.source": "who decided",
	"ratelimit.wait":   "s until the denial ends", "redis.miss": "an answer that is no error",
	"store.round_trips": "what a call cost", "store.calls.names": "what a batch consisted of",
	"store.calls.counts": "how often",
}

func keys(all ...attribute.Key) map[string]string {
	known := map[string]string{}
	for _, key := range all {
		known[string(key)] = "a convention"
	}
	return known
}

// What leaves a replica under a load through its whole surface has the names that the semantic conventions give it, or
// is on our own list; nothing has a name that the conventions have given up, and nothing tells who the callers are.
func TestTelemetrySpeaksTheConventions(t *testing.T) {
	t.Parallel()
	a := startAudited(t, 1, map[string]string{"RECONCILE_COUNT_EVERY": "1s"})
	const secret = "somebody-0815"
	ask(t, "GET", a.replicas[0]+"/nowhere/"+secret+"?who="+secret)
	ask(t, "GET", a.replicas[0]+"/posts/trending?strategy="+secret)
	ask(t, "POST", a.replicas[0]+"/payments/"+secret+"/settled")
	_, _, err := a.audit(t)
	require.NoError(t, err)
	require.NoError(t, a.processes[0].stop()) // which exports what is left

	attributes := map[string]string{}
	maps.Copy(attributes, conventionalAttributes)
	maps.Copy(attributes, ourAttributes)
	said := map[string]string{} // every text that was exported, and where
	spans := a.received.Spans("")
	require.Greater(t, len(spans), 5000)
	for _, s := range spans {
		said[s.Name+" "+s.Error+" "+strings.Join(s.Events, " ")] = "a span"
		for key, value := range s.Attributes {
			require.Contains(t, attributes, key, "span %s", s.Name)
			if key != string(semconv.URLPathKey) { // which a server's span must have; no metric has it
				said[value] = s.Name + " " + key
			}
		}
		_, isCall := s.Attributes["db.system.name"]
		require.Equal(t, isCall, s.Kind == "client", s.Name)
		_, isRequest := s.Attributes["http.request.method"]
		require.Equal(t, isRequest, s.Kind == "server", s.Name)
		for _, link := range s.Links {
			require.NotEmpty(t, link.Kind, s.Name)
		}
	}

	seen := map[string]bool{}
	for _, p := range a.received.Points("") {
		seen[p.Metric] = true
		for key, value := range p.Attributes {
			if !bySDK(p.Metric) {
				require.Contains(t, attributes, key, p.Metric)
			}
			said[value] = p.Metric + " " + key
		}
		if !bySDK(p.Metric) {
			checkMetric(t, p)
		}
	}
	for name := range ourMetrics {
		// Nobody need wait, or be refused, in a run that goes well.
		if !slices.Contains([]string{
			cache.MetricRefused, cache.MetricLeaseWait, cache.MetricWaits, reconcile.MetricTakeovers,
			reconcile.MetricReopened, buffer.MetricDropped, telemetry.ConnectionWaits,
		}, name) {
			require.True(t, seen[name], "%s was not exported", name)
		}
	}
	for _, l := range a.received.Logs() {
		said[l.Body] = "the log"
	}
	for _, private := range []string{secret, "audit-", "127.0.0.1:", " FROM ", "cache:{", "ratelimit:{"} {
		for text, where := range said {
			require.NotContains(t, text, private, where)
		}
	}
}

// bySDK says whether a metric is the runtime's or the SDK's own; they follow the conventions' drafts.
func bySDK(metric string) bool {
	return strings.HasPrefix(metric, "go.") || strings.HasPrefix(metric, "otel.")
}

func checkMetric(t *testing.T, p otlp.Point) {
	t.Helper()
	known, ours := ourMetrics[p.Metric]
	if !ours {
		var conventional bool
		known, conventional = conventionalMetrics[p.Metric]
		require.True(t, conventional, "%s is neither a convention nor on our list", p.Metric)
	}
	got := instrument{p.Unit, p.Kind}
	require.Equal(t, known, got, p.Metric)
	if p.Kind != "histogram" || p.Unit != "s" {
		return
	}
	require.Positive(t, p.Bounds[0], "%s has the SDK's bounds, which begin with 0 and are for milliseconds", p.Metric)
	require.Less(t, p.Bounds[0], 1.0, p.Metric)
	if p.Value >= 20 && p.Metric != cache.MetricValueAge { // the load may follow its fill at once
		require.Less(t, float64(p.Buckets[0]), p.Value, "%s: all values are in the first bucket", p.Metric)
		require.Less(t, float64(p.Buckets[len(p.Buckets)-1]), p.Value, "%s: all values are in the last bucket", p.Metric)
	}
}
