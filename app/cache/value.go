package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// What Redis keeps is a header of fixed size and then the codec's bytes. The scripts read the first fields by their
// offsets; whoever changes the layout gives it another version and changes lease.lua and commit.lua with it.
//
//	 0  version       1 byte
//	 1  kind          1 byte: value, absence or tombstone
//	 2  created at    8 bytes, big-endian: microseconds of Redis's clock when the fill's lease was given
//	10  fresh until   8 bytes, likewise
//	18  fill time     8 bytes, microseconds
//	26  token        16 bytes: which fill produced it
//	42  trace id     16 bytes \
//	58  span id       8 bytes  | of the fill
//	66  trace flags   1 byte  /
//	67  the value
const (
	headerVersion = 1
	headerSize    = 67

	kindValue     = 'V'
	kindAbsence   = 'A' // the loader said that there is none
	kindTombstone = 'T' // deleted; only as far as its created-at
)

var (
	errNotAValue = errors.New("not a value of this version")
	errDeleted   = errors.New("deleted")
)

// entry is a value with its header.
type entry[V any] struct {
	value      V
	absent     bool // the loader answered ErrNotFound
	createdAt  time.Time
	freshUntil time.Time
	fillTime   time.Duration
	token      token
	producer   trace.SpanContext
}

func (e *entry[V]) info(result Result, now time.Time) Info {
	return Info{
		Result:   result,
		Age:      max(0, now.Sub(e.createdAt)),
		TTL:      e.freshUntil.Sub(now),
		Stored:   true,
		Producer: e.producer,
	}
}

func (e *entry[V]) encode(codec Codec[V]) ([]byte, error) {
	var payload []byte
	kind := byte(kindAbsence)
	if !e.absent {
		var err error
		if payload, err = codec.Encode(e.value); err != nil {
			return nil, fmt.Errorf("encode: %w", err)
		}
		kind = kindValue
	}
	traceID, spanID := e.producer.TraceID(), e.producer.SpanID()
	b := make([]byte, 0, headerSize+len(payload))
	b = append(b, headerVersion, kind)
	b = binary.BigEndian.AppendUint64(b, uint64(e.createdAt.UnixMicro()))
	b = binary.BigEndian.AppendUint64(b, uint64(e.freshUntil.UnixMicro()))
	b = binary.BigEndian.AppendUint64(b, uint64(e.fillTime.Microseconds()))
	b = append(b, e.token[:]...)
	b = append(b, traceID[:]...)
	b = append(b, spanID[:]...)
	b = append(b, byte(e.producer.TraceFlags()))
	return append(b, payload...), nil
}

// decode returns errDeleted for a tombstone, and errNotAValue for another version or bytes that are not ours. A payload
// that the codec refuses is an error too, but the entry's header is returned with it. All of them are misses.
func decode[V any](b []byte, codec Codec[V]) (*entry[V], error) {
	switch {
	case len(b) > 1 && b[0] == headerVersion && b[1] == kindTombstone:
		return nil, errDeleted
	case len(b) < headerSize || b[0] != headerVersion || (b[1] != kindValue && b[1] != kindAbsence):
		return nil, errNotAValue
	}
	at := func(offset int) int64 { return int64(binary.BigEndian.Uint64(b[offset:])) }
	e := &entry[V]{
		createdAt:  time.UnixMicro(at(2)),
		freshUntil: time.UnixMicro(at(10)),
		fillTime:   time.Duration(at(18)) * time.Microsecond,
		token:      token(b[26:42]),
		producer: trace.NewSpanContext(trace.SpanContextConfig{
			TraceID:    trace.TraceID(b[42:58]),
			SpanID:     trace.SpanID(b[58:66]),
			TraceFlags: trace.TraceFlags(b[66]),
			Remote:     true,
		}),
	}
	if e.absent = b[1] == kindAbsence; e.absent {
		return e, nil
	}
	var err error
	if e.value, err = codec.Decode(b[headerSize:]); err != nil {
		return e, fmt.Errorf("decode: %w", err)
	}
	return e, nil
}
