package cache

import (
	"time"

	"go.opentelemetry.io/otel/trace"
)

// Result says where a value is from. The words are public: they are the `result` label of cache.requests.
type Result string

// The results of Get.
const (
	// ResultHit: fresh, from Redis or from this process's copy.
	ResultHit Result = "hit"
	// ResultStale: past its TTL, while a fresh value is computed or because that failed; or a copy while Redis fails.
	ResultStale Result = "stale"
	// ResultMiss: computed by this request and stored.
	ResultMiss Result = "miss"
	// ResultWait: computed by another request while this one waited.
	ResultWait Result = "wait"
	// ResultBypass: computed, by this process for itself, because Redis could not be reached; not stored.
	ResultBypass Result = "bypass"
	// ResultError: none.
	ResultError Result = "error"
)

// Info tells where a value is from.
type Info struct {
	Result Result

	// Age is how long ago the fill began that produced the value; zero where nothing was stored.
	Age time.Duration

	// TTL is how much longer the value is fresh; negative when it is stale.
	TTL time.Duration

	// Stored says that the value is in Redis now.
	Stored bool

	// Local says that the value is a hit in this process's copy, without a round-trip.
	Local bool

	// Producer is the span of the fill that produced the value, possibly on another replica and long ago.
	Producer trace.SpanContext

	// Holder is the span of the fill that this request waited for, on any replica, also when it waited in vain. None
	// where the request filled itself.
	Holder trace.SpanContext
}
