package main

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"nervous/app/servicetest"
)

func TestWhatBecameOfThePaymentsIsCountedInPostgres(t *testing.T) {
	t.Parallel()
	d := &deployment{databaseURL: servicetest.Postgres(t)}
	conn, err := pgx.Connect(t.Context(), d.databaseURL)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), `
INSERT INTO payments (reference, amount_minor, currency, status, reconciled_at) VALUES
    ('agrees, marked',       100, 'EUR', 'reconciled', now()),
    ('agrees, pending',      100, 'EUR', 'pending',    NULL),
    ('missing, pending',     100, 'EUR', 'pending',    NULL),
    ('a cent less, pending', 100, 'EUR', 'pending',    NULL),
    ('missing, marked',      100, 'EUR', 'reconciled', now()),
    ('a cent less, marked',  100, 'EUR', 'reconciled', now()),
    ('francs, marked',       100, 'EUR', 'reconciled', now());
INSERT INTO settlements (reference, amount_minor, currency) VALUES
    ('agrees, marked', 100, 'EUR'), ('agrees, pending', 100, 'EUR'), ('a cent less, pending', 99, 'EUR'),
    ('a cent less, marked', 99, 'EUR'), ('francs, marked', 100, 'CHF')`)
	require.NoError(t, err)

	lost, wronglyMarked, err := d.misjudged(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, lost)
	require.EqualValues(t, 3, wronglyMarked)
}

func TestTheCommitLatencyLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	d := &deployment{databaseURL: servicetest.EmptyPostgres(t)}
	for range 2 {
		median, err := d.commitLatency(t.Context())
		require.NoError(t, err)
		require.Positive(t, *median)
	}
}
