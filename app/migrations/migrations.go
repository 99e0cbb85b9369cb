// Package migrations brings a database to the schema that this build was written for. The SQL files beside this one are
// embedded and numbered; goose applies the missing ones in order, each in a transaction of its own, and records them.
//
// Several replicas may start at once: they queue on a Postgres session lock, so each file runs once, and the lock goes
// with its connection when a process dies. A file that fails leaves the database at the file before it, and Up says
// which one failed. There is no way down: taking a change back is the next file.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"path/filepath"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // goose speaks database/sql
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed *.sql
var files embed.FS

// Up applies what is missing and returns the names of the files that it applied, in order: none when the schema was
// current. On an error the files that are returned have been applied all the same.
func Up(ctx context.Context, databaseURL string) (applied []string, err error) {
	db, err := sql.Open("pgx", databaseURL)
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
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
	results, err := provider.Up(ctx)
	for _, result := range results {
		applied = append(applied, filepath.Base(result.Source.Path))
	}
	if err != nil {
		return applied, fmt.Errorf("migrate: %w", err)
	}
	return applied, nil
}

// Querier is what Check needs: a pgx connection, pool or transaction.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Check returns nil when the database has every migration of this build, and otherwise says what is missing. A newer
// schema passes: during a roll-out the old replicas go on serving. It costs one round-trip.
func Check(ctx context.Context, db Querier) error {
	var current int64
	const newest = `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`
	if err := db.QueryRow(ctx, newest).Scan(&current); err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if wanted := Version(); current < wanted {
		return fmt.Errorf("the schema is at version %d and this build needs %d: run `app migrate`", current, wanted)
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
