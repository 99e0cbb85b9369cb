package cache

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type (
	fingerprinted struct {
		A int
		B string `json:"b"`
	}
	sameShape struct {
		A int
		B string `json:"b"`
	}
	list  struct{ Next *list }
	list2 struct{ Next *list2 }
	even  struct{ Odd *odd }
	odd   struct{ Even []even }
	named struct{ V any }

	embedded struct{ fingerprinted }
	marshals struct{ v int }
)

func (m marshals) MarshalJSON() ([]byte, error) { return json.Marshal(m.v) }

// otherCodec has its own encoding.
type otherCodec[V any] struct{ JSON[V] }

func TestVersionOf(t *testing.T) {
	t.Parallel()
	of := func(v any) string { return versionOf(reflect.TypeOf(v), reflect.TypeFor[JSON[int]]()) }
	require.Equal(t, of(fingerprinted{}), of(sameShape{}), "names of types are no part of the shape")
	require.Equal(t, of(list{}), of(list2{}))
	require.Equal(t, of(fingerprinted{}), versionOf(reflect.TypeFor[fingerprinted](), reflect.TypeFor[JSON[string]]()))
	require.Equal(t, of(fingerprinted{}), of(struct {
		A      int
		B      string `json:"b"`
		hidden int
	}{}), "what is not exported is not encoded")

	different := map[string]any{
		"itself":          fingerprinted{},
		"a field renamed": struct{ C, B any }{},
		"a tag":           struct{ A, B string }{},
		"another tag": struct {
			A int
			B string `json:"c"`
		}{},
		"a field's name": struct {
			Z int
			B string `json:"b"`
		}{},
		"a field's type": struct {
			A int64
			B string `json:"b"`
		}{},
		"unsigned": struct {
			A uint64
			B string `json:"b"`
		}{},
		"the order": struct {
			B string `json:"b"`
			A int
		}{},
		"one field more": struct {
			A int
			B string `json:"b"`
			C bool
		}{},
		"a pointer": struct {
			A *int
			B string `json:"b"`
		}{},
		"embedded":             embedded{},
		"a field of that type": struct{ Fingerprinted fingerprinted }{},
		"recursive":            list{},
		"mutually recursive":   even{},
		"the other":            odd{},
		"a slice":              []int{},
		"an array":             [2]int{},
		"a longer array":       [3]int{},
		"bytes":                []byte{},
		"a map":                map[string]int{},
		"keys of a map":        map[int]int{},
		"values of a map":      map[string]string{},
		"a time":               time.Time{},
		"a struct with a time": struct{ At time.Time }{},
		"a duration":           struct{ At time.Duration }{},
		"an interface":         named{},
		"its own encoding":     marshals{},
		"a string":             "",
		"nothing":              struct{}{},
	}
	seen := map[string]string{}
	for what, value := range different {
		version := of(value)
		require.Regexp(t, "^[0-9a-f]{16}$", version)
		if other, twice := seen[version]; twice {
			require.Failf(t, "equal versions", "%s and %s", what, other)
		}
		seen[version] = what
	}
	require.NotEqual(t, of(1), versionOf(reflect.TypeFor[int](), reflect.TypeFor[otherCodec[int]]()), "another codec")
}
