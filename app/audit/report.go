package audit

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"nervous/app/roundtrips"
	"nervous/app/telemetry"
)

// Report is what the books say of one window.
type Report struct {
	// Redis is by command, Postgres by statement.
	Redis    []Row `json:"redis"`
	Postgres []Row `json:"postgres"`
	// Aside are Redis's commands that only probes, exporters, Sentinels, Redis's own replicas and the audit send;
	// AsideStatements are those of other roles, and the audit's.
	Aside           map[string]int64 `json:"aside"`
	AsideStatements int64            `json:"aside_statements"`
	// RoundTrips are all replicas' together.
	RoundTrips map[roundtrips.Store]telemetry.RoundTrips `json:"round_trips"`
	// SpansEnded are all that the replicas have made, SpansLost those of them that were not exported.
	SpansEnded int64 `json:"spans_ended"`
	SpansLost  int64 `json:"spans_lost"`
}

// Row is one command or statement. Server counts those in scripts too.
type Row struct {
	Operation string `json:"operation"`
	Spans     int64  `json:"spans"`
	Wire      *int64 `json:"wire,omitempty"` // nil of Postgres, whose protocol is not read so closely
	Server    int64  `json:"server"`
	InScripts int64  `json:"in_scripts"`
}

// Untraced is how many calls no span accounts for; below 0, how many spans account for none.
func (r Row) Untraced() int64 { return r.Server - r.InScripts - r.Spans }

// explained says whether all counts agree.
func (r Row) explained() bool {
	return r.Untraced() == 0 && (r.Wire == nil || *r.Wire == r.Spans)
}

// Calls adds up rows: how many calls reached the server, and how many of those are traced.
func Calls(rows []Row) (calls, traced int64) {
	for _, r := range rows {
		calls += r.Server - r.InScripts
		traced += min(r.Spans, r.Server-r.InScripts)
	}
	return calls, traced
}

// Complete says whether every call was traced, no more and no less, and no span was lost.
func (r Report) Complete() bool {
	for _, row := range slices.Concat(r.Redis, r.Postgres) {
		if !row.explained() {
			return false
		}
	}
	for _, trips := range r.RoundTrips {
		if trips.Spans != trips.Wire {
			return false
		}
	}
	return r.SpansLost == 0
}

// compare is what happened between two moments.
func compare(before, after moment) (Report, error) {
	if after.counted.forgotten != before.counted.forgotten {
		return Report{}, errors.New("pg_stat_statements forgot statements meanwhile: raise pg_stat_statements.max")
	}
	was, is, err := sums(before.ledgers, after.ledgers)
	if err != nil {
		return Report{}, err
	}
	spans, wire := since(was.redis, is.redis), since(was.wire, is.wire)
	inScripts, elsewhere := since(before.told.inScripts, after.told.inScripts),
		since(before.told.elsewhere, after.told.elsewhere)
	for name := range onlyOthersSend { // counted aside already
		delete(elsewhere, name)
	}
	server := without(since(before.counted.commands, after.counted.commands), elsewhere)
	aside := since(before.counted.aside, after.counted.aside)
	addAll(aside, elsewhere)
	r := Report{
		Aside:           aside,
		AsideStatements: after.counted.others - before.counted.others,
		RoundTrips:      map[roundtrips.Store]telemetry.RoundTrips{},
		SpansEnded:      is.ended - was.ended,
		SpansLost:       is.lost - was.lost,
	}
	for _, operation := range names(spans, wire, server) {
		r.Redis = append(r.Redis, Row{
			Operation: operation, Spans: spans[operation], Wire: new(wire[operation]), Server: server[operation],
			InScripts: inScripts[operation],
		})
	}
	statements, onServer := since(was.postgres, is.postgres), since(before.counted.statements, after.counted.statements)
	for _, operation := range names(statements, onServer) {
		r.Postgres = append(r.Postgres, Row{
			Operation: operation, Spans: statements[operation], Server: onServer[operation],
		})
	}
	for store, trips := range is.roundTrips {
		r.RoundTrips[store] = telemetry.RoundTrips{
			Spans: trips.Spans - was.roundTrips[store].Spans, Wire: trips.Wire - was.roundTrips[store].Wire,
		}
	}
	return r, nil
}

// sum is all replicas' ledgers together.
type sum struct {
	redis, wire, postgres map[string]int64
	roundTrips            map[roundtrips.Store]telemetry.RoundTrips
	ended, lost           int64
}

// sums adds up the ledgers of both moments, which must be of the same processes.
func sums(before, after []telemetry.Ledger) (was, is sum, err error) {
	for i := range before {
		if a, b := before[i], after[i]; a.Replica != b.Replica || !a.Since.Equal(b.Since) {
			return was, is, fmt.Errorf("%s is not the process any more that it was, and took its numbers along", b.Replica)
		}
	}
	return add(before), add(after), nil
}

func add(ledgers []telemetry.Ledger) sum {
	s := sum{redis: map[string]int64{}, wire: map[string]int64{}, postgres: map[string]int64{},
		roundTrips: map[roundtrips.Store]telemetry.RoundTrips{}}
	for _, l := range ledgers {
		addTo(s.redis, l.Calls["redis"])
		addTo(s.wire, l.WireCalls["redis"])
		addTo(s.postgres, l.Calls["postgresql"])
		for store, trips := range l.RoundTrips {
			s.roundTrips[store] = telemetry.RoundTrips{
				Spans: s.roundTrips[store].Spans + trips.Spans, Wire: s.roundTrips[store].Wire + trips.Wire,
			}
		}
		s.ended += l.Spans.Ended
		s.lost += l.Spans.Ended - l.Spans.Exported
	}
	return s
}

func addTo(sums, more map[string]int64) {
	for operation, n := range more {
		sums[operation] += n
	}
}

// since is by how much each number has grown; those that have not are left out.
func since(before, after map[string]int64) map[string]int64 {
	grown := map[string]int64{}
	for name, n := range after {
		if n != before[name] {
			grown[name] = n - before[name]
		}
	}
	return grown
}

// names are those of all counts.
func names(counts ...map[string]int64) []string {
	all := map[string]int64{}
	for _, c := range counts {
		maps.Copy(all, c)
	}
	return slices.Sorted(maps.Keys(all))
}

// Print lays the report out as a table, differences last in each line.
func (r Report) Print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "Redis, by command\tspans\twire\tserver\tin scripts\tuntraced\t\n")
	for _, row := range r.Redis {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%s\n",
			row.Operation, row.Spans, *row.Wire, row.Server, row.InScripts, row.Untraced(), row.mark())
	}
	fmt.Fprint(w, "\t\t\t\t\t\t\nPostgres, by statement\tspans\t\tserver\t\tuntraced\t\n")
	for _, row := range r.Postgres {
		fmt.Fprintf(w, "%s\t%d\t\t%d\t\t%d\t%s\n", row.Operation, row.Spans, row.Server, row.Untraced(), row.mark())
	}
	fmt.Fprint(w, "\t\t\t\t\t\t\nRound-trips\tspans\twire\t\t\tuntraced\t\n")
	for _, store := range slices.Sorted(maps.Keys(r.RoundTrips)) {
		trips := r.RoundTrips[store]
		fmt.Fprintf(w, "%s\t%d\t%d\t\t\t%d\t\n", store, trips.Spans, trips.Wire, trips.Wire-trips.Spans)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\nOnly by probes, exporters, other servers and this audit: %s; %d statements\n%s\n",
		list(r.Aside), r.AsideStatements, r.verdict())
	return err
}

func (r Row) mark() string {
	if r.explained() {
		return ""
	}
	return "<-"
}

func list(counts map[string]int64) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		all = append(all, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(all, ", ")
}

// verdict is the whole in a line or two.
func (r Report) verdict() string {
	redisCalls, redisTraced := Calls(r.Redis)
	calls, traced := Calls(r.Postgres)
	return fmt.Sprintf("Calls traced: %d of %d by Redis, %d of %d by Postgres. Of %d spans %d were lost.",
		redisTraced, redisCalls, traced, calls, r.SpansEnded, r.SpansLost)
}
