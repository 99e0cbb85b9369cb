package seed

import (
	"math/rand/v2"
	"sort"
	"time"
)

// events are the parts of a log of what happened to posts: evenly spread over the log's time and in its order, as a log
// is. Which post a row is about follows the crowd of the moment.
func events(table string, total int, scale Scale, posts []post) []batch {
	columns := []string{"post_id", "user_id", "occurred_at"}
	if table == "comments" {
		columns = append(columns, "body")
	}
	parts := (total + batchRows - 1) / batchRows
	every := (eventsReachBack / time.Duration(total)).Truncate(time.Microsecond)
	var all []batch
	for part := range parts {
		first, last := total*part/parts, total*(part+1)/parts
		all = append(all, batch{table, columns, last - first, func(newest time.Time) func() []any {
			r, row := randomness(table, part), make([]any, len(columns))
			var crowd crowd
			n := first
			return func() []any {
				age := every*time.Duration(total-1-n) + time.Duration(r.Int64N(int64(every))).Truncate(time.Microsecond)
				n++
				crowd.moveTo(age, posts)
				row[0], row[1] = crowd.choose(r), r.Int64N(int64(scale.Users))+1
				row[2] = newest.Add(-age)
				if table == "comments" {
					row[3] = remark(r)
				}
				return row
			}
		}})
	}
	return all
}

// crowd is where the attention goes at one moment: to the popular posts, and to new ones before old ones. A post loses
// half of it about an hour and a quarter after it was written, and three quarters after three hours.
type crowd struct {
	at    time.Duration // counted back from newest
	drawn []int64       // by the post and all older ones: what choose throws its dice on
}

const (
	attentionLasts = 180              // minutes, after which three quarters are gone
	attentionSpan  = 10 * time.Minute // how long a crowd stays as it is
)

func (c *crowd) moveTo(age time.Duration, posts []post) {
	at := age.Truncate(attentionSpan) + attentionSpan
	if c.drawn != nil && at == c.at {
		return
	}
	c.at, c.drawn = at, c.drawn[:0]
	sum := int64(0)
	for _, p := range posts {
		if p.age < at {
			break // not written yet, and neither are those after it
		}
		minutes := int64((p.age - at) / time.Minute)
		sum += p.popularity * attentionLasts * attentionLasts / ((attentionLasts + minutes) * (attentionLasts + minutes))
		c.drawn = append(c.drawn, sum)
	}
}

// choose returns the id of a post.
func (c *crowd) choose(r *rand.Rand) int64 {
	dice := r.Int64N(c.drawn[len(c.drawn)-1])
	return int64(sort.Search(len(c.drawn), func(i int) bool { return c.drawn[i] > dice })) + 1
}
