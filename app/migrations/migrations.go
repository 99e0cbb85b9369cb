// Package migrations brings a database to the schema that this build was written for. The SQL files beside this one are
// embedded and numbered; goose applies the missing ones in order, each in a transaction of its own, and records them.
//
// Several replicas may start at once: they queue on a Postgres session lock, so each file runs once, and the lock goes
// with its connection when a process dies. A file that fails leaves the database at the file before it, and Up says
// which one failed. There is no way down: taking a change back is the next file.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib" // goose speaks database/sql
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"nervous/app/postgresurl"
)

//go:embed *.sql
var files embed.FS

// lockTimeout bounds how long a migration waits for a table. It stands at the head of the table's queue meanwhile, so
// every request waits behind it.
const (
	lockTimeout = 5 * time.Second
	lockTries   = 6
)

// Up applies what is missing and returns the names of the files that it applied, in order: none when the schema was
// current. On an error the files that are returned have been applied all the same.
func Up(ctx context.Context, databaseURL string) (applied []string, err error) {
	config, err := postgresurl.Connection(databaseURL, "nervous migrate")
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	config.RuntimeParams["lock_timeout"] = strconv.FormatInt(lockTimeout.Milliseconds(), 10)
	config.RuntimeParams["statement_timeout"] = "0" // a limit that suits requests does not suit an index
	db := stdlib.OpenDB(*config)
	defer db.Close()
	// Asked for once a second, for as long as another replica can reasonably take: a five-minute migration is not a
	// reason for the others to give up.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker))
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	for try := 1; ; try++ {
		results, err := provider.Up(ctx)
		for _, result := range results {
			applied = append(applied, filepath.Base(result.Source.Path))
		}
		switch {
		case err == nil:
			return applied, nil
		case !hasCode(err, "55P03"): // lock_not_available
			return applied, fmt.Errorf("migrate: %w", err)
		case try == lockTries:
			return applied, fmt.Errorf("migrate: a transaction kept a table locked for more than %s, %d times in a row; "+
				"end it (pg_stat_activity shows it) and run `app migrate` again: %w", lockTimeout, try, err)
		}
		select {
		case <-time.After(lockTimeout): // requests that have waited go first
		case <-ctx.Done():
			return applied, fmt.Errorf("migrate: %w", context.Cause(ctx))
		}
	}
}

func hasCode(err error, code string) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && refused.Code == code
}

// Querier is what Check needs: a pgx connection, pool or transaction.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// OutdatedError says that the database lacks migrations of this build. Version 0 is a database without a schema.
type OutdatedError struct{ Current, Wanted int64 }

func (e OutdatedError) Error() string {
	return fmt.Sprintf("the schema is at version %d and this build needs %d: run `app migrate`", e.Current, e.Wanted)
}

// Check returns nil when the database has every migration of this build, and an OutdatedError when it lacks some. A
// newer schema passes: during a roll-out the old replicas go on serving. It costs one round-trip.
func Check(ctx context.Context, db Querier) error {
	var current int64
	const newest = `-- name: schema_version
SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`
	err := db.QueryRow(ctx, newest).Scan(&current)
	if err != nil && !hasCode(err, "42P01") { // undefined_table: nothing was ever applied
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if wanted := Version(); current < wanted {
		return OutdatedError{current, wanted}
	}
	return nil
}

// Version is the number of the newest migration of this build.
func Version() int64 {
	names, err := files.ReadDir(".") // sorted by name, and the names by number
	if err != nil || len(names) == 0 {
		panic("migrations: nothing is embedded")
	}
	version, err := goose.NumericComponent(names[len(names)-1].Name())
	if err != nil {
		panic(err)
	}
	return version
}
