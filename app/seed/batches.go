package seed

import (
	"math/rand/v2"
	"time"
)

// edition says which rows a scale stands for. Whoever changes what is generated raises it, so that a database with the
// older rows is loaded anew instead of being half one and half the other.
const edition = 1

// batchRows is how many rows are copied and committed at a time, at most: some tenths of a second of work, which is
// what an interruption loses.
const batchRows = 100_000

// batch is a part of a table, always with the same rows: they depend on the scale, the table and the part's number, and
// on no other batch. Only their times are relative, to newest.
type batch struct {
	table   string
	columns []string
	rows    int
	// generate returns a function that returns one row after the other, in a slice that it uses again.
	generate func(newest time.Time) (next func() []any)
}

// batches are all that a scale consists of, in the order in which they are loaded.
func batches(scale Scale) []batch {
	posts := makePosts(scale)
	all := []batch{users(scale.Users), postRows(posts, scale.Users)}
	all = append(all, events("views", scale.Views, scale, posts)...)
	all = append(all, events("comments", scale.Comments, scale, posts)...)
	all = append(all, events("shares", scale.Shares, scale, posts)...)
	return append(all, payments(scale.Payments), settlements(scale.Payments))
}

// randomness returns the numbers that a part of a table is made from, the same ones each time.
func randomness(table string, part int) *rand.Rand {
	var seed uint64
	for _, letter := range []byte(table) {
		seed = seed*31 + uint64(letter)
	}
	return rand.New(rand.NewPCG(seed, uint64(part)))
}
