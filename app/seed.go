package main

import (
	"context"
	"flag"

	"nervous/app/seed"
)

// runSeed fills the database with demo data, or brings what is there up to the present.
func runSeed(ctx context.Context, p program, args []string) error {
	flags := flag.NewFlagSet("seed", flag.ContinueOnError)
	flags.SetOutput(p.stderr)
	scale := seed.Small
	flags.Func("scale", "`scale` to load: small (default) or full", func(name string) (err error) {
		scale, err = seed.ParseScale(name)
		return err
	})
	replace := flags.Bool("replace", false, "delete rows in the demo's tables that no seed has written")
	if flags.Parse(args) != nil || flags.NArg() > 0 {
		return errUsage
	}
	db, err := loadDatabaseConfig(p.getenv)
	if err != nil {
		return err
	}
	return seed.Run(ctx, db.direct(), seed.Options{Scale: scale, Replace: *replace, Report: seed.Print(p.stdout)})
}
