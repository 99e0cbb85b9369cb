// Command app is the whole service in one binary: `serve` answers requests, `migrate` and `seed` prepare the truth in
// Postgres, `reconcile` and `reset` do and undo the batch job, `audit` measures whether every call to a store is
// traced, `token` mints what callers show, `healthcheck` asks a running replica whether it is ready. Configuration
// comes from the environment (see config.go); a faulty one stops the start with every fault listed. Exit status: 0
// done, 1 failed, 2 wrong use.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// program is what a command may use of the outside world; tests hand in their own.
type program struct {
	getenv func(string) string
	stdout io.Writer
	stderr io.Writer
}

type command struct {
	name, summary string
	run           func(ctx context.Context, p program, args []string) error
}

// errUsage says that the command line was wrong; the reason has been printed already.
var errUsage = errors.New("wrong use")

func commands() []command {
	return []command{
		{"serve", "answer requests until SIGTERM", runServe},
		{"migrate", "bring the database's schema up to date", runMigrate},
		{"seed", "load the demo data, or finish and freshen what is there", runSeed},
		{"reconcile", "compare payments with settlements, and mark those that agree", runReconcile},
		{"reset", "make every payment pending again (demo only)", runReset},
		{"audit", "measure whether every call to the stores is traced (demo only)", runAudit},
		{"token", "mint a bearer token for a caller", runToken},
		{"healthcheck", "exit 0 when the replica on this machine is ready", runHealthcheck},
	}
}

func main() {
	// The first signal asks for a graceful end; restoring the default at once lets a second one force it.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)

	err := run(ctx, program{os.Getenv, os.Stdout, os.Stderr}, os.Args[1:])
	switch {
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintf(os.Stderr, "app: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, p program, args []string) error {
	if len(args) > 0 {
		for _, c := range commands() {
			if c.name == args[0] {
				return c.run(ctx, p, args[1:])
			}
		}
		fmt.Fprintf(p.stderr, "app: there is no command %q\n\n", args[0])
	}
	fmt.Fprintln(p.stderr, "usage: app COMMAND [flags]")
	for _, c := range commands() {
		fmt.Fprintf(p.stderr, "  %-12s %s\n", c.name, c.summary)
	}
	return errUsage
}
