package seed

import (
	"time"
)

// post is what the events need to know about a post; its id is its place in the list plus one.
type post struct {
	age        time.Duration // at newest, in whole microseconds as Postgres keeps them
	popularity int64         // in proportion to the attention that it gets while it is new
}

// makePosts spreads the posts evenly over time, the oldest first, and deals out popularity by Zipf's law with a flat
// top: number 11 draws half of what number 1 does, and number 10,000 a thousandth. All in whole numbers, which come out
// the same on every processor.
func makePosts(scale Scale) []post {
	const mostPopular, flatTop = 1_000_000_000, 10
	posts := make([]post, scale.Posts)
	r := randomness("posts", 0)
	apart := postsReachBack / time.Duration(len(posts))
	ranks := r.Perm(len(posts))
	for i := range posts {
		age := apart*time.Duration(len(posts)-1-i) + time.Duration(r.Int64N(int64(apart)))
		posts[i] = post{age.Truncate(time.Microsecond), mostPopular * flatTop / int64(flatTop+ranks[i])}
	}
	return posts
}

func postRows(posts []post, authors int) batch {
	columns := []string{"id", "author_id", "title", "created_at"}
	return batch{"posts", columns, len(posts), func(newest time.Time) func() []any {
		r, row := randomness("posts", 1), make([]any, len(columns))
		i := -1
		return func() []any {
			i++
			row[0], row[1], row[2] = int64(i+1), r.Int64N(int64(authors))+1, title(r)
			row[3] = newest.Add(-posts[i].age)
			return row
		}
	}}
}

func users(count int) batch {
	return batch{"users", []string{"id", "name"}, count, func(time.Time) func() []any {
		r, row := randomness("users", 0), make([]any, 2)
		id := int64(0)
		return func() []any {
			id++
			row[0], row[1] = id, name(r)
			return row
		}
	}}
}
