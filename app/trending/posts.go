package trending

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrBusy answers when no connection to Postgres came free in time: the request is shed rather than queued behind
// others that will be too late as well.
var ErrBusy = errors.New("all connections to the database are busy")

//go:embed queries/top_posts.sql
var topPostsSQL string

//go:embed queries/author.sql
var authorSQL string

//go:embed queries/authors.sql
var authorsSQL string

// posts asks Postgres.
type posts struct {
	pool           *pgxpool.Pool
	acquireTimeout time.Duration
}

// Prepare prepares the queries on a new connection. Hooked into the pool, it moves the driver's extra round-trip out of
// the first requests that use the connection.
func Prepare(ctx context.Context, conn *pgx.Conn) error {
	for _, sql := range []string{topPostsSQL, authorSQL, authorsSQL} {
		// Named by itself: that is where the driver looks when the same text is queried.
		if _, err := conn.Prepare(ctx, sql, sql); err != nil {
			return fmt.Errorf("trending: prepare: %w", err)
		}
	}
	return nil
}

// nPlusOne is the query in a loop that every ORM makes easy: 1 round-trip, and one more for each post.
func (p posts) nPlusOne(ctx context.Context) (list List, err error) {
	err = p.withConn(ctx, func(conn *pgxpool.Conn) error {
		list, err = topPosts(ctx, conn)
		if err != nil {
			return err
		}
		for i := range list.Posts {
			author := &list.Posts[i].Author
			if err := conn.QueryRow(ctx, authorSQL, author.ID).Scan(&author.ID, &author.Name); err != nil {
				return fmt.Errorf("author %d: %w", author.ID, err)
			}
		}
		return nil
	})
	return list, err
}

// preloaded asks for all authors at once: 2 round-trips, however many posts.
func (p posts) preloaded(ctx context.Context) (list List, err error) {
	err = p.withConn(ctx, func(conn *pgxpool.Conn) error {
		list, err = topPosts(ctx, conn)
		if err != nil {
			return err
		}
		ids := make([]int64, len(list.Posts))
		for i, post := range list.Posts {
			ids[i] = post.Author.ID
		}
		rows, _ := conn.Query(ctx, authorsSQL, ids) // CollectRows returns the error
		authors, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Author])
		if err != nil {
			return fmt.Errorf("authors: %w", err)
		}
		names := make(map[int64]string, len(authors))
		for _, a := range authors {
			names[a.ID] = a.Name
		}
		for i := range list.Posts {
			list.Posts[i].Author.Name = names[list.Posts[i].Author.ID]
		}
		return nil
	})
	return list, err
}

func topPosts(ctx context.Context, conn *pgxpool.Conn) (List, error) {
	list := List{GeneratedAt: time.Now().UTC()}
	rows, _ := conn.Query(ctx, topPostsSQL, Window) // CollectRows returns the error
	var err error
	list.Posts, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (post Post, err error) {
		err = row.Scan(&post.ID, &post.Author.ID, &post.Title, &post.CreatedAt,
			&post.Views, &post.Comments, &post.Shares, &post.Score)
		return post, err
	})
	if err != nil {
		return List{}, fmt.Errorf("top posts: %w", err)
	}
	return list, nil
}

// withConn holds one connection for as long as f runs. The wait for it is bounded: ErrBusy.
func (p posts) withConn(ctx context.Context, f func(*pgxpool.Conn) error) error {
	patience, cancel := context.WithTimeout(ctx, p.acquireTimeout)
	defer cancel()
	conn, err := p.pool.Acquire(patience)
	for isFull(err) {
		// Postgres allows no further connection, so one of the pool's must come free.
		select {
		case <-time.After(10*time.Millisecond + rand.N(10*time.Millisecond)):
			conn, err = p.pool.Acquire(patience)
		case <-patience.Done():
			err = patience.Err()
		}
	}
	switch {
	case err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: waited %s", ErrBusy, p.acquireTimeout)
	case err != nil:
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Release()
	return f(conn)
}

// isFull says that Postgres has refused a connection because there are as many as it allows.
func isFull(err error) bool {
	const tooManyConnections = "53300"
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && refused.Code == tooManyConnections
}
