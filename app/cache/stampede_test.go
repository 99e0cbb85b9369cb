package cache_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

func TestThreeProcessesOfAThousandRequestsFillOnce(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		const times, callers = 20, 1000
		var replicas []*process
		for i := range 3 {
			replicas = append(replicas, startProcess(t, b, settings{Held: true, Replica: fmt.Sprint(i), Lease: time.Minute}))
		}
		for n := range times {
			key := fmt.Sprint("cold", n)
			var asked []<-chan []Got
			for _, r := range replicas {
				asked = append(asked, r.ask(Ask{key, callers}))
			}
			var leader *process
			eventually(t, func() bool { // everybody is there before the fill ends, and one of them works
				if i := slices.IndexFunc(replicas, (*process).filling); i >= 0 {
					leader = replicas[i]
				}
				return leader != nil && waiting(replicas...) == 3*callers-1
			})
			leader.release(Load{Value: key})
			results := map[cache.Result]int{}
			for _, answers := range asked {
				got := <-answers
				require.Len(t, got, callers)
				for _, g := range got {
					require.Equal(t, key, g.Value, g.Err)
					results[g.Result]++
				}
			}
			require.Equal(t, 1, results[cache.ResultMiss])
			require.Equal(t, n+1, runs(replicas...), "one fill each time")
		}
	})
}
