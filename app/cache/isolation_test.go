package cache_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"nervous/app/cache"
)

// Every two of these caches must share nothing, although some of their names become equal when they are joined with
// colons, braces or escapes.
var similar = []struct{ namespace, name, version, key string }{
	{"", "a", "v", "b:c"},
	{"", "a:b", "v", "c"},
	{"", "a", "b:v", "c"},
	{"", "a:b", "v", "b:c"},
	{"a", "b", "v", "b:c"},
	{"a:b", "c", "v", "b:c"},
	{"a", "b:c", "v", "b:c"},
	{"a:cache", "b", "v", "b:c"},
	{"a%3Ab", "c", "v", "b:c"},
	{"a", "b%3Ac", "v", "b:c"},
	{"a", "b", "{v}", "b:c"},
	{"{a}", "b", "v", "b:c"},
	{"{a", "}b", "v", "b:c"},
	{"%7Ba%7D", "b", "v", "b:c"},
}

func TestCache_isolation(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		rdb := b.client(t)
		began, release := make(chan string, 1000), make(chan struct{})
		var caches []*cache.Cache[string]
		var answers []<-chan answer
		for i, s := range similar {
			own := fmt.Sprint("value of cache ", i)
			c := run(t, rdb, cache.Options[string]{
				Namespace: s.namespace, Name: s.name, Version: s.version, Lease: time.Minute,
				Load: func(context.Context, string) (string, error) {
					began <- own
					<-release
					return own, nil
				},
			})
			caches = append(caches, c)
			answers = append(answers, get(t.Context(), inProcess{Cache: c}, s.key))
		}
		for range similar {
			<-began // no fill waits for the lease of another cache
		}
		close(release)
		for i, a := range answers {
			got := <-a
			require.NoError(t, got.err)
			require.Equal(t, cache.ResultMiss, got.info.Result, "%+v", similar[i])
		}
		for i, s := range similar {
			requireGet(t, caches[i], s.key, fmt.Sprint("value of cache ", i), cache.ResultHit)
		}
		channels := map[string]bool{}
		for _, s := range similar {
			channels[s.namespace+"\n"+s.name] = true
		}
		eventually(t, func() bool {
			listening := map[string]bool{}
			for _, node := range b.nodes {
				for _, channel := range connect(t, node).PubSubChannels(t.Context(), "*").Val() {
					listening[channel] = true
				}
			}
			return len(listening) == len(channels) // one channel for each namespace and name
		})
		for i, deleted := range similar {
			require.NoError(t, caches[i].Delete(t.Context(), deleted.key))
			for j, s := range similar {
				result := cache.ResultHit
				if s.version = deleted.version; s == deleted { // the same value in any version
					result = cache.ResultMiss
				}
				requireGet(t, caches[j], s.key, fmt.Sprint("value of cache ", j), result)
			}
		}
	})
}

// keyTexts are hard for hash tags, for names and for messages.
var keyTexts = []string{
	"", " ", "{", "}", "{}", "}{", "{a}b", "{a}c", "a{b}", "{{a}}", "sha256:", "sha256:" + strings.Repeat("0", 64),
	"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", // the hash of ""
	strings.Repeat("x", 64), strings.Repeat("x", 65), strings.Repeat("x", 200), strings.Repeat("x", 199) + "y",
	"ключ", "鍵", "🔑", "a b", "filled v a", " a", "a ", "a\nb", "a\r\nb", "\x00", "\xff\xfe", "%", "%7B", "a:b", "a|b", "*",
}

func TestCache_keys(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b backend) {
		began, release := make(chan struct{}, 1), make(chan string)
		load := func(_ context.Context, key string) (string, error) {
			began <- struct{}{}
			return <-release + hex.EncodeToString([]byte(key)), nil // JSON changes what is no UTF-8
		}
		options := cache.Options[string]{Version: "two words: {v}", Load: load, LocalTTL: time.Hour, TTL: time.Hour}
		one, other := run(t, b.client(t), options), run(t, b.client(t), options)
		for _, key := range keyTexts {
			miss := get(t.Context(), inProcess{Cache: one}, key)
			<-began
			wait := get(t.Context(), inProcess{Cache: other}, key)
			release <- "old of "
			require.Equal(t, cache.ResultMiss, (<-miss).info.Result, "%q", key)
			require.Equal(t, oldOf(key), (<-wait).value)
		}
		for _, c := range []*cache.Cache[string]{one, other} {
			for i, a := range c.GetMany(t.Context(), keyTexts...) {
				require.NoError(t, a.Err)
				require.Equal(t, []any{oldOf(keyTexts[i]), cache.ResultHit}, []any{a.Value, a.Info.Result})
			}
			for _, key := range keyTexts {
				eventually(t, func() bool {
					value, info, err := c.Get(t.Context(), key)
					return err == nil && value == oldOf(key) && info.Local
				})
			}
		}
		for _, key := range keyTexts { // the message about one key ends that copy, and the others stay
			require.NoError(t, one.Delete(t.Context(), key))
			deleted := time.Now()
			var got answer
			eventually(t, func() bool {
				asked := get(t.Context(), inProcess{Cache: other}, key)
				select {
				case <-began:
					release <- "new of "
					got = <-asked
				case got = <-asked:
				}
				return strings.HasPrefix(got.value, "new of ")
			})
			require.Less(t, time.Since(deleted), time.Second, "%q was forgotten by a message and not by a silent feed", key)
		}
		require.Len(t, keyTexts, len(unique(keyTexts)))
	})
}

func oldOf(key string) string { return "old of " + hex.EncodeToString([]byte(key)) }

func unique(texts []string) map[string]bool {
	all := map[string]bool{}
	for _, text := range texts {
		all[text] = true
	}
	return all
}
