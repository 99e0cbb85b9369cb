package ratelimit_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"nervous/app/ratelimit"
	"nervous/app/servicetest"
)

// A caller may do three things a minute, on whatever replica.
func Example() {
	ctx := context.Background()
	limiter := ratelimit.New(server(), ratelimit.Options{Replica: "one"})
	// A service runs limiter.Run(ctx) beside it, in every replica.

	policy, err := limiter.Policy(ratelimit.Policy{Name: "overall", Limit: 3, Window: time.Minute})
	if err != nil {
		panic(err)
	}
	for range 4 {
		d, err := limiter.Check(ctx, "user:42", 1, policy)
		fmt.Println(d.Allowed, d.Verdicts[0].Remaining, d.Wait().Round(time.Minute), err)
	}

	// Output:
	// true 2 0s <nil>
	// true 1 0s <nil>
	// true 0 0s <nil>
	// false 0 1m0s <nil>
}

// What is dear costs more units, and has a limit of its own besides. Both are checked at once, and either both are
// spent or none.
func ExampleLimiter_Check_severalPolicies() {
	ctx := context.Background()
	limiter := ratelimit.New(server(), ratelimit.Options{Replica: "one"})

	overall, err := limiter.Policy(ratelimit.Policy{Name: "overall", Limit: 100, Window: time.Minute})
	if err != nil {
		panic(err)
	}
	reports, err := limiter.Policy(ratelimit.Policy{Name: "reports", Limit: 10, Window: time.Hour})
	if err != nil {
		panic(err)
	}
	for range 2 {
		d, err := limiter.Check(ctx, "user:43", 8, overall, reports)
		fmt.Println(d.Allowed, d.Verdicts[0].Remaining, d.Verdicts[1].Remaining, err)
	}

	// Output:
	// true 92 2 <nil>
	// false 92 2 <nil>
}

// server starts a Redis. It ends with this process.
var server = sync.OnceValue(func() *redis.Client {
	settings := servicetest.Options{Settings: map[string]string{"save": ""}}
	server, err := servicetest.StartRedis(context.Background(), settings)
	if err != nil {
		panic(err)
	}
	options := server.Options()
	options.OnConnect = ratelimit.LoadScripts
	return redis.NewClient(options)
})
