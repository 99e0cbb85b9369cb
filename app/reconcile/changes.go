package reconcile

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// changesBatch is how many changed settlements one transaction examines.
const changesBatch = 5000

// examineChanges reopens the reconciled payments that do not agree any more, because their settlement was changed.
func (w *worker) examineChanges(ctx context.Context) error {
	for {
		var taken, reopened int64
		b := &pgx.Batch{}
		b.Queue(sealSQL, w.job.ID)
		b.Queue(changesSQL, w.job.ID, changesBatch).QueryRow(func(row pgx.Row) error {
			return row.Scan(&taken, &reopened)
		})
		err := w.db.within(ctx, workTimeout, func(ctx context.Context) error { return w.db.SendBatch(ctx, b).Close() })
		if err != nil {
			return fmt.Errorf("examine changed settlements: %w", err)
		}
		w.tel.reopened(ctx, reopened)
		if taken < changesBatch {
			return nil
		}
	}
}

// countDisagreeing tells the metrics how many reconciled payments disagree with their settlement, until a run reopens
// them.
func (r *Reconciler) countDisagreeing(ctx context.Context) error {
	var n int64
	err := r.db.within(ctx, recordTimeout, func(ctx context.Context) error {
		return r.db.QueryRow(ctx, disagreeingSQL).Scan(&n)
	})
	if err != nil {
		return fmt.Errorf("count reconciled payments that disagree: %w", err)
	}
	r.tel.disagree(ctx, n)
	return nil
}
