package buffer_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"nervous/app/buffer"
	"nervous/app/servicetest"
)

// Many requests each say that one parcel has arrived; one statement writes that down.
func Example() {
	ctx := context.Background()
	rdb, pool := servers()

	parcels := buffer.New(rdb, pool, buffer.Options[int64]{
		Name: "parcels",
		Apply: func(ctx context.Context, tx pgx.Tx, _ buffer.Generation, ids []int64) (int64, error) {
			tag, err := tx.Exec(ctx, "UPDATE parcels SET arrived = true WHERE id = ANY($1) AND NOT arrived", ids)
			return tag.RowsAffected(), err
		},
	})
	arrived := parcels.Open("arrived") // a service would have `parcels.Run(ctx, arrived)` flush it, in every replica
	for id := range int64(1_000) {
		if err := arrived.Add(ctx, id%100+1); err != nil {
			fmt.Println("not accepted, so write it to the database:", err)
		}
	}
	done, err := arrived.Flush(ctx)
	fmt.Printf("%d generation of %d ids, %d rows changed, %v\n", done.Generations, done.Items, done.Applied, err)

	// Output: 1 generation of 100 ids, 100 rows changed, <nil>
}

// Ids may also be words, and a buffer may be for one job, which waits for all of its work to be done.
func ExampleBuffer_Flush() {
	ctx := context.Background()
	rdb, pool := servers()

	words := buffer.New(rdb, pool, buffer.Options[string]{
		Name: "words",
		Apply: func(_ context.Context, _ pgx.Tx, g buffer.Generation, ids []string) (int64, error) {
			fmt.Println("job", g.Buffer, "has", ids)
			return int64(len(ids)), nil
		},
	})
	job := words.Open("2026-11-23")
	err := errors.Join(job.Add(ctx, "pear", "apple"), job.Add(ctx, "apple", "quince"))
	done, failed := job.Flush(ctx)
	fmt.Println(done.Items, err, failed)

	// Output:
	// job 2026-11-23 has [apple pear quince]
	// 3 <nil> <nil>
}

// servers starts a Redis, and a Postgres with the tables that the examples need. They end with this process.
var servers = sync.OnceValues(func() (*redis.Client, *pgxpool.Pool) {
	ctx := context.Background()
	server, err := servicetest.StartRedis(ctx, servicetest.Options{Settings: map[string]string{"save": ""}})
	if err != nil {
		panic(err)
	}
	postgres, err := servicetest.StartPostgres(ctx, servicetest.Options{Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		panic(err)
	}
	pool, err := pgxpool.New(ctx, postgres.URL("postgres"))
	if err != nil {
		panic(err)
	}
	_, err = pool.Exec(ctx, `
		CREATE TABLE buffer_generations (
			id uuid PRIMARY KEY, buffer text NOT NULL, items int NOT NULL, flushed_at timestamptz NOT NULL DEFAULT now());
		CREATE TABLE parcels (id bigint PRIMARY KEY, arrived boolean NOT NULL DEFAULT false);
		INSERT INTO parcels (id) SELECT generate_series(1, 1000)`)
	if err != nil {
		panic(err)
	}
	return redis.NewClient(server.Options()), pool
})
