package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// handover is what happened to the payments of a job when the replica that did it died.
type handover struct {
	worker string // who died
	job    job    // as it was when it was over

	lost          int64 // pending although their settlement agrees
	wronglyMarked int64 // reconciled although it does not

	bytesPerPayment float64 // of Redis, in the buffer that the dead worker left
}

// happened says whether another replica brought the job to its end.
func (h *handover) happened() bool {
	return h != nil && h.job.State == "done" && h.job.Attempts >= 2 && h.job.Replica != h.worker
}

// job is a reconcile job as it tells of itself.
type job struct {
	ID       string `json:"id"`
	State    string `json:"state"`
	Total    int64  `json:"total"`
	Attempts int    `json:"attempts"`
	Replica  string `json:"replica"` // who does it, or did it last
}

func (j job) over() bool { return j.State != "running" && j.State != "cancelling" }

// killTheWorker starts a buffered job, kills the replica that does it as soon as half of its first range is in Redis,
// and asks Postgres what became of the payments once another has done the rest. It returns nil when there is no middle
// to be found: with few payments the job is over at once.
func (d *deployment) killTheWorker(ctx context.Context) (*handover, error) {
	memory, err := redis.ParseURL(d.redisURL)
	if err != nil {
		return nil, err
	}
	rdb := redis.NewClient(memory)
	defer rdb.Close()
	if err := d.call(ctx, http.MethodDelete, "/reconcile", nil, nil); err != nil {
		return nil, err
	}
	var working job
	order := map[string]string{"strategy": "buffered"}
	if err := d.call(ctx, http.MethodPost, "/reconcile", order, &working); err != nil {
		return nil, err
	}
	open := "nervous:buffer:{reconcile:" + working.ID + "/1}:open" // what the job's first range has collected
	if working, err = d.halfDone(ctx, rdb, open, working); err != nil {
		return nil, err
	}
	if working.over() {
		d.say("the job was over before its worker could be killed")
		return nil, nil //nolint:nilnil // nothing was measured, and nothing is wrong
	}
	defer d.faults.begin(ctx, "kill -9 of "+working.Replica)()
	if err := d.parts.kill(working.Replica); err != nil {
		return nil, err
	}
	killed, left := time.Now(), rdb.SCard(ctx, open).Val()
	d.say("killed %s in the middle of its job: of %d payments %d were in Redis", working.Replica, working.Total, left)
	h := &handover{worker: working.Replica}
	if left > 0 {
		h.bytesPerPayment = float64(rdb.MemoryUsage(ctx, open, 0).Val()) / float64(left)
	}
	if h.job, err = d.whenOver(ctx, working.ID); err != nil {
		return nil, err
	}
	d.say("its job is %s, by %s, %.1f s later", h.job.State, h.job.Replica, time.Since(killed).Seconds())
	if h.lost, h.wronglyMarked, err = d.misjudged(ctx); err != nil {
		return nil, err
	}
	for i := range d.at.replicas {
		if replica := d.replica(i); replica.name == h.worker {
			return h, d.parts.start(ctx, replica)
		}
	}
	return nil, fmt.Errorf("the job names %q, which is none of the replicas", h.worker)
}

// rangePayments is how many payments a range of a job has at most.
const rangePayments = 25_000

// halfDone returns the job as soon as its buffer holds half of a range, or when it is over.
func (d *deployment) halfDone(ctx context.Context, rdb *redis.Client, open string, of job) (job, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for looks := 1; ; looks++ {
		held, err := rdb.SCard(ctx, open).Result()
		if err != nil {
			return job{}, err
		}
		half := held >= min(of.Total, rangePayments)/2
		if half || looks%50 == 0 { // now and then, because a buffer that was flushed has none either
			if of, err = d.job(ctx, of.ID); err != nil || half || of.over() {
				return of, err
			}
		}
		select {
		case <-ctx.Done():
			return job{}, context.Cause(ctx)
		case <-again.C:
		}
	}
}

func (d *deployment) job(ctx context.Context, id string) (now job, err error) {
	err = d.call(ctx, http.MethodGet, "/reconcile/"+id, nil, &now)
	return now, err
}

// whenOver returns the job when nobody works on it any more.
func (d *deployment) whenOver(ctx context.Context, id string) (job, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		now, err := d.job(ctx, id)
		if err != nil || now.over() {
			return now, err
		}
		select {
		case <-ctx.Done():
			return job{}, fmt.Errorf("job %s is still %s on %s: %w", id, now.State, now.Replica, context.Cause(ctx))
		case <-again.C:
		}
	}
}

// misjudged counts in Postgres itself the payments that are not as their settlements say.
func (d *deployment) misjudged(ctx context.Context) (lost, wronglyMarked int64, err error) {
	conn, err := pgx.Connect(ctx, d.databaseURL)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close(ctx)
	const count = `
SELECT count(*) FILTER (WHERE p.status = 'pending' AND agrees),
       count(*) FILTER (WHERE p.status = 'reconciled' AND NOT agrees)
FROM payments p
LEFT JOIN settlements s USING (reference)
CROSS JOIN LATERAL (
    SELECT coalesce((s.amount_minor, s.currency) = (p.amount_minor, p.currency), false) AS agrees
) judged`
	err = conn.QueryRow(ctx, count).Scan(&lost, &wronglyMarked)
	return lost, wronglyMarked, err
}

// call sends a request to the service, in the name of the user whose turn it is, and reads its answer into the given
// place, if there is one.
func (d *deployment) call(ctx context.Context, method, path string, body, into any) error {
	sent := &bytes.Buffer{}
	if body != nil {
		if err := json.NewEncoder(sent).Encode(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, d.at.door.url()+path, sent)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", d.users.next())
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: %s", method, path, answer.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(answer.Body).Decode(into)
}
