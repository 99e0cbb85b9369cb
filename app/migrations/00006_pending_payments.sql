-- +goose NO TRANSACTION
-- +goose Up

-- What a run reads is proportional to what is pending, not to all payments there ever were. With this index an update
-- that marks a payment is no HOT update any more. Marking took as long as with a narrow table of pending ids beside the
-- payments at 50,000 and 500,000 payments; larger sizes were not compared on a quiet machine. The narrow table needs a
-- trigger on every insert. The index is built beside the traffic, and again where it was interrupted.
DROP INDEX IF EXISTS payments_pending;

-- It waits for older transactions, and no request waits behind it.
SET lock_timeout = 0;
CREATE INDEX CONCURRENTLY payments_pending ON payments (id) WHERE status = 'pending';
RESET lock_timeout;

-- Room for HOT updates is of no use now.
ALTER TABLE payments RESET (fillfactor);
