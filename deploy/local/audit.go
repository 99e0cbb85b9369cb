package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"nervous/app/audit"
)

// audited is what is known about whether the rest can be believed.
type audited struct {
	report  *audit.Report // nil where nobody has audited
	atSpike spans
}

// spans are all that the replicas have made, and those of them that did not reach this program.
type spans struct{ made, lost int64 }

// audit holds the replicas' books against the servers'. It comes last: while it looks, nobody else may call.
func (d *deployment) audit(ctx context.Context) (*audit.Report, error) {
	d.say("the audit: was every call to Redis and Postgres traced? Half a minute")
	var replicas []string
	for _, at := range d.at.admins {
		replicas = append(replicas, at.url())
	}
	file := filepath.Join(d.dir, "audit.json")
	auditing := d.app("audit", "-replicas", strings.Join(replicas, ","), "-door", d.at.door.url(), "-json", file)
	auditing.env = append(auditing.env, "REDIS_URL="+d.redisURL, "TOKEN_SECRET="+tokenSecret)
	failure := d.parts.run(ctx, auditing)
	text, err := os.ReadFile(file)
	if err != nil {
		if failure == nil {
			failure = err
		}
		return nil, failure // without a report there was no audit; with one, its claims say what is wrong
	}
	report := new(audit.Report)
	return report, json.Unmarshal(text, report)
}

// countSpans asks each replica what it has made since it started, and what of that it got rid of.
func (d *deployment) countSpans(ctx context.Context) (sum spans, err error) {
	for _, at := range d.at.admins {
		here, err := countSpans(ctx, at.url()+"/ledger")
		if err != nil {
			return sum, err
		}
		sum.made, sum.lost = sum.made+here.made, sum.lost+here.lost
	}
	return sum, nil
}

// countSpans asks again for a while: some spans are always on their way.
func countSpans(ctx context.Context, ledger string) (here spans, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		if here, err = readSpans(ctx, ledger); err != nil || here.lost == 0 {
			return here, err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return here, nil
		}
	}
}

func readSpans(ctx context.Context, ledger string) (spans, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ledger, nil)
	if err != nil {
		return spans{}, err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return spans{}, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return spans{}, fmt.Errorf("%s: %s", ledger, answer.Status)
	}
	var told struct {
		Spans struct{ Ended, Exported int64 }
	}
	if err := json.NewDecoder(answer.Body).Decode(&told); err != nil {
		return spans{}, err
	}
	return spans{made: told.Spans.Ended, lost: told.Spans.Ended - told.Spans.Exported}, nil
}
