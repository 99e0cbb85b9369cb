package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"nervous/app/migrations"
	"nervous/app/postgresurl"
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
	applied, err := migrations.Up(ctx, db.direct())
	for _, name := range applied {
		fmt.Fprintln(p.stdout, "applied", name)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "the schema is at version %d\n", migrations.Version())
	if db.DirectURL != "" && db.DirectURL != db.URL {
		return settleRole(ctx, p.stdout, db)
	}
	return nil
}

// settleRole gives the service's role the settings that its sessions do not set behind a pooler. A role that may not
// leaves that to the administrator: the service works without them, with deadlines of its own.
func settleRole(ctx context.Context, out io.Writer, db database) error {
	service, err := postgresurl.Connection(db.URL, "")
	if err != nil {
		return err
	}
	conn, err := postgresurl.Connect(ctx, db.direct(), "nervous migrate")
	if err != nil {
		return fmt.Errorf("settings of the role: %w", err)
	}
	defer conn.Close(ctx)
	settings := sessionSettings(db)
	var refused error
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		alter := fmt.Sprintf("ALTER ROLE %s IN DATABASE %s SET %s = %s", pgx.Identifier{service.User}.Sanitize(),
			pgx.Identifier{cmp.Or(service.Database, service.User)}.Sanitize(), name, settings[name])
		if _, err := conn.Exec(ctx, alter); err != nil {
			refused = err
			fmt.Fprintf(out, "not allowed here, for the administrator: %s;\n", alter)
		}
	}
	if refused == nil {
		fmt.Fprintf(out, "the sessions of role %s have their settings\n", service.User)
	}
	return nil
}
