package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	batch    = 1000 // events a request
	stepTime = 10 * time.Second
	longTime = 60 * time.Second
	// maxAge is the bound of the backlog: how long an event may wait until it is in Postgres.
	maxAge = 2 * time.Second
)

var rates = []int{1000, 2000, 3500, 5000, 7500, 10_000, 15_000, 20_000}

// step is what one rate came to.
type step struct {
	rate, sent, refused int
	seconds             float64
	age                 time.Duration
	dbTrips             float64 // a second
}

func (s step) broken() string {
	switch {
	case s.refused > 0:
		return "events refused"
	case s.age > maxAge:
		return "backlog age"
	case float64(s.sent) < 0.95*float64(s.rate)*s.seconds:
		return "rate not kept"
	}
	return "none"
}

// measureLive raises the rate until a bound breaks, and then holds the last one that did not for a minute.
func (b *bench) measureLive(ctx context.Context, payments int) error {
	if err := b.load(ctx, payments); err != nil {
		return err
	}
	if err := b.startApp(ctx); err != nil {
		return err
	}
	defer b.stopApp()
	fmt.Println("\n| live events a second | for s | sent | DB round-trips a second | oldest event, s " +
		"| bound that broke |")
	fmt.Println("|---:|---:|---:|---:|---:|---|")
	first, good := 1, 0
	for _, rate := range rates {
		need := rate*int(stepTime.Seconds()) + rate*int(longTime.Seconds()) // and the minute after it
		if first+need > payments {
			fmt.Fprintln(os.Stderr, "there are not enough payments for a higher rate")
			break
		}
		s, err := b.step(ctx, rate, stepTime, first)
		if err != nil {
			return err
		}
		first += s.sent
		if s.broken() != "none" {
			break
		}
		good = rate
	}
	if good == 0 {
		return nil
	}
	s, err := b.step(ctx, good, longTime, first)
	if err != nil {
		return err
	}
	last := first + s.sent - 1
	var pending int
	const missing = `SELECT count(*) FROM payments JOIN settlements USING (reference)
		WHERE status = 'pending' AND id <= $1`
	err = until(ctx, 30*time.Second, 100*time.Millisecond, func() (bool, error) {
		err := b.pool.QueryRow(ctx, missing, last).Scan(&pending)
		return pending == 0, err
	})
	fmt.Printf("\nOf %d payments that were named and agree, %d are not marked.\n", last, pending)
	return err
}

// step sends batches at a rate for a while, each payment once.
func (b *bench) step(ctx context.Context, rate int, length time.Duration, first int) (s step, err error) {
	s.rate = rate
	before, err := b.dbTrips(ctx)
	if err != nil {
		return s, err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	age := b.watchAge(watching)
	var group sync.WaitGroup
	var sent, refused atomic.Int64
	next := make(chan int)
	for range 8 { // as many requests at a time at most
		group.Go(func() {
			for from := range next {
				ids := make([]int, batch)
				for i := range ids {
					ids[i] = from + i
				}
				if err := b.call(ctx, http.MethodPost, "/payments/settled", map[string]any{"payments": ids}, nil); err != nil {
					fmt.Fprintln(os.Stderr, err)
					refused.Add(batch)
					continue
				}
				sent.Add(batch)
			}
		})
	}
	began := time.Now()
	tick := time.NewTicker(time.Second * batch / time.Duration(rate))
	end := time.After(length)
	for from, over := first, false; !over; {
		select {
		case <-tick.C:
			select {
			case next <- from:
				from += batch
			case <-time.After(time.Second): // all are busy: the rate is not kept
			}
		case <-end:
			over = true
		}
	}
	tick.Stop()
	close(next)
	group.Wait()
	s.seconds = time.Since(began).Seconds()
	s.sent, s.refused = int(sent.Load()), int(refused.Load())
	stop()
	s.age = age()
	after, err := b.dbTrips(ctx)
	s.dbTrips = (after - before) / s.seconds
	fmt.Printf("| %d | %.0f | %d | %.1f | %.2f | %s |\n", rate, s.seconds, s.sent, s.dbTrips, s.age.Seconds(), s.broken())
	return s, err
}

// watchAge returns how long the oldest event had waited, at most, until the context ended.
func (b *bench) watchAge(ctx context.Context) (oldest func() time.Duration) {
	var worst time.Duration
	done := make(chan struct{})
	go func() {
		defer close(done)
		again := time.NewTicker(50 * time.Millisecond)
		defer again.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-again.C:
				worst = max(worst, b.oldest(ctx))
			}
		}
	}()
	return func() time.Duration {
		<-done
		return worst
	}
}

// oldest is how long the oldest event waits now.
func (b *bench) oldest(ctx context.Context) (age time.Duration) {
	for _, name := range []string{"live", "live/1", "live/2", "live/3"} {
		prefix := namespace + ":buffer:{reconcile:" + name + "}:"
		since := []string{b.rdb.HGet(ctx, prefix+"open:manifest", "since").Val()}
		for _, g := range b.rdb.ZRangeWithScores(ctx, prefix+"generations", 0, 0).Val() {
			since = append(since, strconv.FormatFloat(g.Score, 'f', 0, 64))
		}
		for _, text := range since {
			if micros, err := strconv.ParseInt(text, 10, 64); err == nil {
				age = max(age, time.Since(time.UnixMicro(micros)))
			}
		}
	}
	return age
}
