package cache

import "encoding/json"

// Codec turns values into the bytes that Redis keeps, and back. Decode must refuse what Encode of another version
// wrote; the cache treats that as a miss.
type Codec[V any] interface {
	Encode(V) ([]byte, error)
	Decode([]byte) (V, error)
}

// JSON is the default codec.
type JSON[V any] struct{}

// Encode returns the value as JSON.
func (JSON[V]) Encode(v V) ([]byte, error) { return json.Marshal(v) }

// Decode reads what Encode wrote.
func (JSON[V]) Decode(b []byte) (v V, err error) {
	err = json.Unmarshal(b, &v)
	return v, err
}
