package cache_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

// Redis did it, and the replica did not hear: nobody may be locked out by what a replica does not know that it has.
func TestAReplyThatIsLost(t *testing.T) {
	for _, after := range []string{"cache.lease", "cache.commit"} {
		t.Run("after "+after, func(t *testing.T) {
			onEachLink(t, func(t *testing.T, b backend) {
				if b.certificate != "" {
					b = oneRedis(t) // a proxy cannot find the command in what is encrypted
				}
				through, proxies := b.proxies(t)
				far := startProcess(t, b, settings{Through: through, Lease: time.Hour})
				other := startProcess(t, b, settings{Lease: time.Hour})
				lost := proxies[b.owner(t, "k")].LoseReply(cache.Scripts()[after].Hash())

				got := far.get("k")
				<-lost
				require.Equal(t, cache.ResultMiss, got.Result)
				require.True(t, got.Stored)
				hit := other.get("k")
				require.Equal(t, []any{got.Value, cache.ResultHit}, []any{hit.Value, hit.Result})
				require.Equal(t, 1, runs(far, other))
				require.Zero(t, b.at(t, "k").Exists(t.Context(), cache.LeaseKey("k")).Val(), "no lease is left")
			})
		})
	}
}
