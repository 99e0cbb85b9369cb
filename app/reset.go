package main

import (
	"context"
	"errors"
	"fmt"

	"nervous/app/reconcile"
)

// runReset makes every payment pending again, so that the demo can be run once more.
func runReset(ctx context.Context, p program, args []string) error {
	if len(args) > 0 {
		fmt.Fprintln(p.stderr, "usage: app reset (it is configured by the environment)")
		return errUsage
	}
	c, err := loadJobConfig(p.getenv)
	if err != nil {
		return err
	}
	if !c.Demo.On {
		return errors.New("reset makes reconciled payments pending again, which is for a demo only: set DEMO=true")
	}
	return withStores(ctx, c, func(r *reconcile.Reconciler) error {
		if err := r.Reset(ctx); err != nil {
			return err
		}
		fmt.Fprintln(p.stdout, "every payment is pending")
		return nil
	})
}
