package telemetry

import (
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5"
)

// statement is what telemetry says about SQL: the word it begins with, and the name that its author gave it. The text
// itself is never kept, because it may contain literals.
type statement struct{ word, name string }

// StatementName is what telemetry calls the SQL: by its name if its author gave it one, as `-- name: TopPosts :many` in
// the first line, else by the word it begins with.
func StatementName(sql string) string { return nameStatement(sql).title() }

// nameStatement reads `-- name: TopPosts :many`, sqlc's heading, from the first line, and the first word of the SQL.
func nameStatement(sql string) statement {
	var s statement
	if heading, ok := strings.CutPrefix(sql, "-- name: "); ok {
		s.name = heading[:strings.IndexFunc(heading+"\n", unicode.IsSpace)]
	}
	sql = skipComments(sql)
	end := strings.IndexFunc(sql, func(r rune) bool { return !unicode.IsLetter(r) })
	if end < 0 {
		end = len(sql)
	}
	if s.word = strings.ToUpper(sql[:end]); s.word == "" {
		s.word = "EMPTY" // pgx pings with nothing but a comment
	}
	return s
}

func skipComments(sql string) string {
	for {
		sql = strings.TrimLeft(sql, " \t\r\n;(")
		switch {
		case strings.HasPrefix(sql, "--"):
			_, sql, _ = strings.Cut(sql, "\n")
		case strings.HasPrefix(sql, "/*"):
			_, sql, _ = strings.Cut(sql, "*/")
		default:
			return sql
		}
	}
}

// title is the name of the span.
func (s statement) title() string {
	if s.name != "" {
		return s.name
	}
	return s.word
}

// nameBatch names a batch after its statements if they are all alike.
func nameBatch(batch *pgx.Batch) statement {
	if len(batch.QueuedQueries) == 0 {
		return statement{word: "BATCH"}
	}
	first := nameStatement(batch.QueuedQueries[0].SQL)
	for _, query := range batch.QueuedQueries[1:] {
		if nameStatement(query.SQL) != first {
			return statement{word: "BATCH"}
		}
	}
	first.word = "BATCH " + first.word
	return first
}
