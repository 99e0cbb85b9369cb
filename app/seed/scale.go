package seed

import (
	"fmt"
	"strings"
	"time"
)

// Scale is how much there is of everything, in rows; none may be 0.
type Scale struct {
	Name                    string
	Users, Posts            int
	Views, Comments, Shares int
	Payments                int
}

// The two scales have the same shape; Full is large enough that one uncached trending answer takes more than a second
// of one core, Small loads fast enough for a test.
var (
	Small = Scale{Name: "small", Users: 500, Posts: 2_000, Views: 40_000, Comments: 1_600, Shares: 800, Payments: 2_000}
	Full  = Scale{
		Name: "full", Users: 10_000, Posts: 20_000, Views: 7_000_000, Comments: 280_000, Shares: 140_000, Payments: 50_000,
	}
)

// ParseScale returns the scale of that name.
func ParseScale(name string) (Scale, error) {
	var names []string
	for _, s := range []Scale{Small, Full} {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return Scale{}, fmt.Errorf("there is no scale %q; there are %s", name, strings.Join(names, " and "))
}

const (
	// postsReachBack is the age of the oldest post.
	postsReachBack = 72 * time.Hour
	// eventsReachBack is the age of the oldest view, comment and share: this service keeps the raw log of a day, which
	// is what trending looks at, and no more.
	eventsReachBack = 24 * time.Hour
)
