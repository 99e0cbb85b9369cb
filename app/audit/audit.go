// Package audit holds what the replicas say of their calls to the stores against what the servers counted: that every
// call is traced is measured here, and not believed.
//
// There are three independent counts. The replicas' ledgers say what their spans account for, and what passed over
// their connections; Redis counts each command (INFO commandstats), Postgres each statement (pg_stat_statements). All
// are read before a load and after it, in a moment in which neither server counted anything, so that the numbers belong
// together. What is left between them is a call that was made past the instrumentation.
//
// Three things are no such calls and are told apart. Commands that scripts call are counted by Redis like any other;
// MONITOR says which those were. So it does for what Sentinels and Redis's own replicas send, whose connections CLIENT
// LIST names. And some commands are only ever sent by probes, exporters and this audit.
//
// Of a Cluster the counts of all masters are added up. A redirected command is two spans, and two counted calls: the
// node that answers MOVED or ASK counts it as rejected. Of a replica only what it rejected and what sets up connections
// is counted, because all else came from its master. With Sentinel the current master is asked.
//
// How it fails: whatever else uses the same Redis, or the same database in the same role, is a difference, because no
// server can tell who called. A replica that is not asked is one too. A replica that starts anew within the window is
// an error, and so is a Redis that restarted, failed over or changed its role (ErrCountsLost): its counts are gone,
// and no number is better than a wrong one. On a service that is never quiet for some milliseconds there is no moment
// to read in, which is an error as well. MONITOR shows every command's arguments to this process, which keeps only the
// names and the senders, and it costs Redis time: it is for a demonstration or a test, not for a busy server.
package audit

import (
	"context"
	"fmt"
	"time"

	"nervous/app/telemetry"
)

// Options say whom to ask.
type Options struct {
	// DatabaseURL and RedisURL are what the replicas use: the same database in the same role.
	DatabaseURL, RedisURL string
	// Replicas are the base URLs of all replicas' ADMIN_ADDR, as in http://127.0.0.1:8091.
	Replicas []string
	// Patience is how long to wait for a quiet moment, and for a difference to go away: a call that is under way is
	// counted by the server before its span ends. Defaults to 15 s.
	Patience time.Duration
}

// Run audits the window of a load, which is over when the load returns. A report with differences is no error.
func Run(ctx context.Context, o Options, load func(context.Context) error) (Report, error) {
	if o.Patience <= 0 {
		o.Patience = 15 * time.Second
	}
	a, err := open(ctx, o)
	if err != nil {
		return Report{}, err
	}
	defer a.close()
	before, err := a.quietMoment(ctx)
	if err != nil {
		return Report{}, err
	}
	if err := load(ctx); err != nil {
		return Report{}, fmt.Errorf("the load: %w", err)
	}
	return a.settle(ctx, before)
}

// auditor is connected to everybody.
type auditor struct {
	patience time.Duration
	servers  *servers
	replicas replicas
}

func open(ctx context.Context, o Options) (*auditor, error) {
	servers, err := connect(ctx, o)
	if err != nil {
		return nil, err
	}
	return &auditor{o.Patience, servers, o.Replicas}, nil
}

func (a *auditor) close() { _ = a.servers.close() } // everything was read

// moment is a state of all the books that belongs together.
type moment struct {
	counted counted
	told    told // what the monitors have seen up to then
	ledgers []telemetry.Ledger
}

// quietMoment reads all books in a moment in which nothing was counted and no span ended.
func (a *auditor) quietMoment(ctx context.Context) (moment, error) {
	ctx, cancel := context.WithTimeout(ctx, a.patience)
	defer cancel()
	for tries := 1; ; tries++ {
		m, quiet, err := a.look(ctx)
		if err != nil {
			if ctx.Err() != nil {
				err = fmt.Errorf("in %d tries there was no moment without a call: is somebody using the service? %w", tries, err)
			}
			return m, err
		}
		if quiet {
			return m, nil
		}
	}
}

// look reads all books, and whether nothing happened meanwhile.
func (a *auditor) look(ctx context.Context) (m moment, quiet bool, err error) {
	if err := a.servers.same(ctx); err != nil {
		return m, false, err
	}
	if m.counted, err = a.servers.count(ctx); err != nil {
		return m, false, err
	}
	// A mark in the monitors' streams. In a quiet moment it does not matter where exactly it lies.
	if m.told, err = a.servers.watched(ctx); err != nil {
		return m, false, err
	}
	first, err := a.replicas.ledgers(ctx)
	if err != nil {
		return m, false, err
	}
	// The first one has had all spans exported; the second can say what was lost.
	if m.ledgers, err = a.replicas.ledgers(ctx); err != nil {
		return m, false, err
	}
	again, err := a.servers.count(ctx)
	return m, again.same(m.counted) && noneEnded(first, m.ledgers), err
}

func noneEnded(before, after []telemetry.Ledger) bool {
	for i := range before {
		if before[i].Spans.Ended != after[i].Spans.Ended {
			return false
		}
	}
	return true
}

// settle reports as soon as there is nothing left to explain, or else what is still there when patience ends.
func (a *auditor) settle(ctx context.Context, before moment) (Report, error) {
	late := time.Now().Add(a.patience)
	for {
		after, err := a.quietMoment(ctx)
		if err != nil {
			return Report{}, err
		}
		report, err := compare(before, after)
		if err != nil || report.Complete() || time.Now().After(late) {
			return report, err
		}
	}
}
