// Command local is the whole deployment on this machine without Docker: Postgres, Redis, three replicas behind a front
// door, Prometheus, and, where the machine has them, the collector, Tempo, Loki, Grafana and the exporter of Redis,
// from the configuration files that docker-compose.yml mounts. It loads the data, runs the load scripts, the first
// while k6's dashboard draws it, prints what the article claims beside what was measured, and stays up until Ctrl-C.
//
// Everything is private and on 127.0.0.1, everything that is written lies in temporary directories, and when this
// program ends, by Ctrl-C, SIGTERM or a fault, no process and no file is left. When a part ends by itself, so does the
// run: it names the part and shows the end of its log. Exit status: 0 done, 1 failed or (with -once) a claim does not
// hold, 2 wrong use.
//
// ./deploy/local/up builds it and installs the programs that it starts.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

type options struct {
	once  bool
	json  string
	scale string
	port  int
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		os.Exit(2)
	}
	// A closed terminal and a closed pipe end the run like Ctrl-C: in order. Signals that come while it ends change
	// nothing, because the end is bounded and must not be cut short.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "\ndeploy/local: %v\n", err)
		os.Exit(1)
	}
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("./deploy/local/up", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.once, "once", false, "leave after the claims; exit 1 if one does not hold")
	flags.StringVar(&o.json, "json", "", "write the claims to this `file`")
	flags.StringVar(&o.scale, "scale", "full", "how much data: small (seconds) or full (makes the query cost 1-2 s)")
	flags.IntVar(&o.port, "port", 8080, "of the front door; the replicas take the three after it")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var err error
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.scale != "small" && o.scale != "full":
		err = fmt.Errorf("-scale is %q; there are small and full", o.scale)
	case o.port < 1 || o.port > 65532:
		err = fmt.Errorf("-port is %d; it must leave room for three more ports up to 65535", o.port)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
	}
	return o, err
}
