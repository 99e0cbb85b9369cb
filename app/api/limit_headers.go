package api

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"nervous/app/ratelimit"
)

// describeLimits writes RateLimit-Policy, what a caller may, and RateLimit, what is left of it: the fields of
// draft-ietf-httpapi-ratelimit-headers, which are lists of RFC 9651. There is nothing to escape in the names of
// policies, which this service gives.
func describeLimits(header http.Header, verdicts []ratelimit.Verdict) {
	var may, left []string
	for _, v := range verdicts {
		p := v.Policy
		may = append(may, fmt.Sprintf(`"%s";q=%d;w=%d`, p.Name, p.Limit, secondsUp(p.Window)))
		left = append(left, fmt.Sprintf(`"%s";r=%d;t=%d`, p.Name, v.Remaining, secondsUp(v.Reset)))
	}
	header.Set("RateLimit-Policy", strings.Join(may, ", "))
	header.Set("RateLimit", strings.Join(left, ", "))
}

// secondsUp rounds up, because who comes a moment too early has come in vain.
func secondsUp(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
