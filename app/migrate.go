package main

import (
	"context"
	"flag"
	"fmt"

	"nervous/app/migrations"
)

// runMigrate applies the missing migrations and names them.
func runMigrate(ctx context.Context, p program, args []string) error {
	flags := flag.NewFlagSet("migrate", flag.ContinueOnError)
	flags.SetOutput(p.stderr)
	if flags.Parse(args) != nil || flags.NArg() > 0 {
		return errUsage
	}
	db, err := loadDatabaseConfig(p.getenv)
	if err != nil {
		return err
	}
	applied, err := migrations.Up(ctx, db.URL)
	for _, name := range applied {
		fmt.Fprintln(p.stdout, "applied", name)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "the schema is at version %d\n", migrations.Version())
	return nil
}
