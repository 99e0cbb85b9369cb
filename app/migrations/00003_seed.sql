-- +goose Up

-- What `app seed` has done to this database: no row before the first run, one ever after. A batch of rows and its count
-- here are committed together, which is what lets an interrupted run go on where it was.
CREATE TABLE seed (
    only_row boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    scale    text        NOT NULL,
    edition  int         NOT NULL, -- of the generator: other rows under the same scale are another edition
    batches  int         NOT NULL, -- loaded so far
    newest   timestamptz NOT NULL, -- the moment at which the data's time ends
    settled  boolean     NOT NULL  -- vacuumed and analyzed since the last change
);
