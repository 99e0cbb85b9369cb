package reconcile_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"nervous/app/reconcile"
)

// A run is asked for, and belongs to whichever replica takes it. Who asks may come back for it at any other.
func ExampleReconciler_Start() {
	ctx := context.Background()
	var pool *pgxpool.Pool
	var rdb *redis.Client
	r := reconcile.New(pool, rdb, reconcile.Options{Replica: "one"})
	go func() { _ = r.Run(ctx) }() // every replica does

	job, err := r.Start(ctx, reconcile.Buffered, 0)
	if running, ok := errors.AsType[reconcile.RunningError](err); ok {
		job, err = r.Job(ctx, running.ID)
	}
	if err != nil {
		return
	}
	eta, known := job.ETA()
	fmt.Println(job.State, job.Progress(), eta, known)
}

// An event is taken by Redis, else by Postgres; refused, it is to be sent again.
func ExampleReconciler_Settled() {
	ctx := context.Background()
	var r *reconcile.Reconciler
	switch path, err := r.Settled(ctx, 4711); {
	case errors.Is(err, reconcile.ErrUnavailable):
		fmt.Println("503, Retry-After: 1")
	case err == nil:
		fmt.Println("202", path)
	}
}
