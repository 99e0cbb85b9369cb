package cache_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

func TestWhoHearsNoMessagesReturnsByPoll(t *testing.T) {
	onEachLink(t, func(t *testing.T, b backend) {
		leader, deaf := startProcess(t, b, settings{Held: true}), startProcess(t, b, settings{})
		led := leader.ask(Ask{"k", 1})
		leader.started()
		b.deafen(t)
		waiting := deaf.ask(Ask{"k", 20})
		deaf.waiters(20)
		leader.release(Load{Value: "v"})
		<-led
		for _, got := range <-waiting {
			require.Equal(t, []any{"v", cache.ResultWait}, []any{got.Value, got.Result})
		}
		require.Positive(t, deaf.waited()["poll"])
		require.Zero(t, deaf.waited()["push"])
		require.Empty(t, deaf.fills())
	})
}

func TestASubscriptionThatIsCutIsTakenUpAgain(t *testing.T) {
	onEachLink(t, func(t *testing.T, b backend) {
		leader, waiter := startProcess(t, b, settings{Held: true}), startProcess(t, b, settings{Held: true})
		b.cutSubscriptions(t)
		eventually(t, func() bool { return b.subscribers(t) == 2 }) // go-redis does that by itself
		b.pushed(t, leader, waiter)
	})
}

// pushed returns a key that the leader, held, has filled, and whose message the waiter has heard: the message woke it.
func (b backend) pushed(t *testing.T, leader, waiter *process) (key string) {
	t.Helper()
	for n := range 10 { // a poll may look between the commit and its message, but not each time
		key := fmt.Sprint("pushed-", n)
		before := calls(t, b.at(t, key), "evalsha")
		led := leader.ask(Ask{key, 1})
		leader.started()
		waiting := waiter.ask(Ask{key, 1})
		// Once it has polled a few times its next poll is far enough away for the push to come first.
		b.scriptsRun(t, key, before+6)
		leader.release(Load{Value: "v"})
		<-led
		require.Equal(t, []any{"v", cache.ResultWait}, valueAndResult(<-waiting))
		if waiter.waited()["push"] > 0 {
			return key
		}
	}
	require.Fail(t, "nobody was woken by push")
	return ""
}

// cutSubscriptions ends the connections that listen, on all nodes.
func (b backend) cutSubscriptions(t *testing.T) {
	t.Helper()
	for _, node := range b.nodes {
		require.NoError(t, connect(t, node).ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err())
	}
}

// deafen ends the connections that listen, on all nodes, and lets none in again.
func (b backend) deafen(t *testing.T) {
	t.Helper()
	for _, node := range b.nodes {
		require.NoError(t, connect(t, node).ACLSetUser(t.Context(), "default", "-subscribe").Err())
	}
	b.cutSubscriptions(t)
	eventually(t, func() bool { return b.subscribers(t) == 0 })
}
