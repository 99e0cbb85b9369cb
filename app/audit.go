package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"nervous/app/audit"
	"nervous/app/identity"
)

// runAudit measures whether every call to the stores was traced, and fails if not:
//
//	app audit -replicas http://127.0.0.1:8091,http://127.0.0.1:8092,http://127.0.0.1:8093
//
// It reads the replicas' ledgers at their ADMIN_ADDR, and sends its load to the front door.
//
// It sends a load of its own, for which payments become pending again, or with -for watches what others send.
func runAudit(ctx context.Context, p program, args []string) error {
	flags := flag.NewFlagSet("audit", flag.ContinueOnError)
	flags.SetOutput(p.stderr)
	asked := flags.String("replicas", "http://127.0.0.1:8091",
		"`URLs` of all replicas, each at its ADMIN_ADDR, separated by commas; a name stands for all its addresses")
	doors := flags.String("door", "http://127.0.0.1:8080",
		"`URLs` that the load is sent to, separated by commas; a name stands for all its addresses")
	window := flags.Duration("for", 0, "watch for so long what others send, instead of sending a load")
	file := flags.String("json", "", "also write the report to this `file`")
	if flags.Parse(args) != nil {
		return errUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(p.stderr, "app: an audit has no use for %q\n\n", flags.Args())
		flags.Usage()
		return errUsage
	}
	c, err := loadAuditConfig(p.getenv)
	if err != nil {
		return err
	}
	replicas, err := audit.Find(ctx, strings.Split(*asked, ","))
	if err != nil {
		return err
	}
	load := watch(*window)
	if *window == 0 {
		found, err := audit.Find(ctx, strings.Split(*doors, ","))
		if err != nil {
			return err
		}
		load = mixedLoad(found, identity.New(c.Tokens.Secret))
	}
	report, err := audit.Run(ctx, audit.Options{
		DatabaseURL: c.Database.URL, RedisURL: c.Redis.URL, Replicas: replicas,
	}, load)
	if err != nil {
		return err
	}
	if err := report.Print(p.stdout); err != nil {
		return err
	}
	if *file != "" {
		text, err := json.MarshalIndent(report, "", "  ")
		if err = errors.Join(err, os.WriteFile(*file, append(text, '\n'), 0o600)); err != nil {
			return err
		}
	}
	if !report.Complete() {
		return errors.New("not every call is traced, or not every span arrived: see the lines that are marked")
	}
	return nil
}

func mixedLoad(doors []string, tokens identity.Tokens) func(context.Context) error {
	mixed := audit.Mixed{Doors: doors, Bearer: func(user string) (string, error) {
		token, err := tokens.Mint(identity.Caller{User: user, Scopes: []string{"reconcile"}}, time.Hour)
		return "Bearer " + token, err
	}}
	return mixed.Run
}

func watch(window time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(window):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
