package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// leaseTime is what the replicas are told by TRENDING_LEASE: how long a dead leader can hold up the others.
const leaseTime = 3 * time.Second

// trendingLeases matches the key of the lease to compute the list, in any namespace and version. It holds
// token|traceparent|replica.
const trendingLeases = "*:lease:trending:*"

// takeover is what happened to those who waited when the replica that computed the answer for them died.
type takeover struct {
	took   time.Duration // from kill -9 to the first answer of a waiter on a replica that lives
	fill   time.Duration // of that: Postgres's time for the one who took over
	fills  int           // how many took over
	failed int           // requests to living replicas that got no answer
}

// inTime says whether one replica took over, and at the latest when the lease had expired and the query had run again.
func (t *takeover) inTime() bool {
	return t.fills == 1 && t.failed == 0 && t.took > 0 && t.took < leaseTime+t.fill
}

func (t *takeover) milliseconds() *float64 {
	if t == nil {
		return nil
	}
	return new(milliseconds(t.took))
}

// killTheLeader kills the replica that computes the answer for everybody, in the middle of its work, and watches what
// becomes of those who wait elsewhere. How long the query takes alone is only a guess at where the middle is; when it
// was over before, the next attempt comes sooner. It returns nil when there is no middle to be found: a query that is
// over at once, as with little data, cannot be interrupted.
func (d *deployment) killTheLeader(ctx context.Context, alone time.Duration) (*takeover, error) {
	memory, err := redis.ParseURL(d.redisURL)
	if err != nil {
		return nil, err
	}
	rdb := redis.NewClient(memory)
	defer rdb.Close()
	for into := alone / 2; into > 10*time.Millisecond; into /= 2 {
		if found, err := d.killLeaderAfter(ctx, rdb, into); found != nil || err != nil {
			return found, err
		}
	}
	d.say("the query is too fast to kill whoever runs it")
	return nil, nil //nolint:nilnil // nothing was measured, and nothing is wrong
}

// killLeaderAfter sends cold requests to every replica and kills the one that has held the lease for the given time; it
// returns nil if it holds it no more. Afterwards all replicas run again.
func (d *deployment) killLeaderAfter(ctx context.Context, rdb *redis.Client, into time.Duration) (*takeover, error) {
	if err := d.forget(ctx); err != nil {
		return nil, err
	}
	asking := d.askEveryReplica(ctx, 10)
	defer asking.wait()
	key, lease, err := leaseHeld(ctx, rdb)
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(into):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if now, err := rdb.Get(ctx, key).Result(); err != nil || now != lease {
		return nil, ctx.Err()
	}
	leader := lease[strings.LastIndex(lease, "|")+1:]
	killed := time.Now()
	defer d.faults.begin(ctx, "kill -9 of "+leader)()
	if err := d.parts.kill(leader); err != nil {
		return nil, err
	}
	d.say("killed %s while it ran the query for everybody", leader)
	found := survived(asking.wait(), leader, killed)
	for i := range d.at.replicas {
		if replica := d.replica(i); replica.name == leader {
			return found, d.parts.start(ctx, replica)
		}
	}
	return nil, fmt.Errorf("the lease names %q, which is none of the replicas", leader)
}

// forget makes the memory cold.
func (d *deployment) forget(ctx context.Context) error {
	return d.call(ctx, http.MethodDelete, "/posts/trending", nil, nil)
}

// leaseHeld returns the key and the value of the lease as soon as a replica holds it.
func leaseHeld(ctx context.Context, rdb *redis.Client) (key, lease string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		// An error is a lease that is not held yet, or a Redis that the supervisor is about to report.
		if keys, err := rdb.Keys(ctx, trendingLeases).Result(); err == nil && len(keys) == 1 {
			if lease, err := rdb.Get(ctx, keys[0]).Result(); err == nil {
				return keys[0], lease, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", "", fmt.Errorf("no replica takes the lease %s: %w", trendingLeases, context.Cause(ctx))
		case <-again.C:
		}
	}
}

// asked is one request to one replica, and how it was answered.
type asked struct {
	replica string
	at      time.Time // of the answer
	result  string    // the cache's; "" where there was no answer
	query   time.Duration
}

type asking struct {
	running sync.WaitGroup
	all     []asked
}

// wait returns when every request has its answer, or has failed.
func (a *asking) wait() []asked {
	a.running.Wait()
	return a.all
}

// askEveryReplica sends requests past the front door, which would try elsewhere what a dead replica leaves unanswered.
func (d *deployment) askEveryReplica(ctx context.Context, requests int) *asking {
	a := &asking{all: make([]asked, requests*len(d.at.replicas))}
	for i := range a.all {
		n := i % len(d.at.replicas)
		a.all[i].replica = d.replica(n).name
		a.running.Go(func() {
			a.all[i].ask(ctx, d.at.replicas[n].url()+"/posts/trending?strategy=lease", d.users.next())
		})
	}
	return a
}

// One member of Server-Timing: `cache;desc="wait";dur=1234.567`, durations in milliseconds.
var serverTiming = regexp.MustCompile(`(cache|db);desc="([^"]*)";dur=([0-9.]+)`)

func (a *asked) ask(ctx context.Context, url, authorization string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return
	}
	req.Header.Set("Authorization", authorization)
	answer, err := http.DefaultClient.Do(req)
	a.at = time.Now()
	if err != nil {
		return
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	if answer.StatusCode != http.StatusOK {
		return
	}
	for _, member := range serverTiming.FindAllStringSubmatch(answer.Header.Get("Server-Timing"), -1) {
		switch took, _ := strconv.ParseFloat(member[3], 64); member[1] {
		case "cache":
			a.result = member[2]
		case "db":
			a.query = time.Duration(took * float64(time.Millisecond))
		}
	}
}

// survived reads from the answers of the living replicas what became of those who waited.
func survived(all []asked, leader string, killed time.Time) *takeover {
	var t takeover
	for _, a := range all {
		if a.replica == leader {
			continue // it died with its requests
		}
		switch waited := a.at.Sub(killed); a.result {
		case "":
			t.failed++
		case "miss":
			t.fills++
			t.fill = a.query
		case "wait":
			if t.took == 0 || waited < t.took {
				t.took = waited
			}
		}
	}
	return &t
}
