// Command scale measures what reconciling costs as the number of payments grows, and how many live events a second one
// replica sustains. It starts a private Postgres, a private Redis and one replica of the service, and stops them at the
// end:
//
//	go run ./loadtest/scale                               a buffered run of 50,000, 500,000 and 5,000,000 payments
//	go run ./loadtest/scale -runs 50000                   of fewer
//	go run ./loadtest/scale -runs "" -live 2000000        live events among so many pending payments, each once
//
// Five million payments take about 3 GB of disk and ten minutes on two cores. The tables are Markdown.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
)

func main() {
	runs := flag.String("runs", "50000,500000,5000000", "payments of the runs, with commas between")
	live := flag.Int("live", 0, "pending payments for live events; 0 is none")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := measure(ctx, *runs, *live); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		stop()
		os.Exit(1) //nolint:gocritic // the deferred stop was called
	}
}

func measure(ctx context.Context, runs string, live int) error {
	var sizes []int
	for _, text := range strings.FieldsFunc(runs, func(r rune) bool { return r == ',' }) {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("-runs: %q is not a number of payments", text)
		}
		sizes = append(sizes, n)
	}
	b, err := newBench(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.measureRuns(ctx, sizes); err != nil {
		return err
	}
	if live > 0 {
		return b.measureLive(ctx, live)
	}
	return nil
}
