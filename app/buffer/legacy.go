package buffer

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
)

// Releases before namespaces kept buffers under `buffer:{family:name}:…`, and all of them in the index `buffers`. Run
// flushes what they have left there, by the same protocol and under the same leases, also while old replicas still add
// to it. A later release can delete this file, once no such keys are left.
//
// An old name does not say which environment it belongs to. Where several share a Redis database, each flushes what it
// finds, as they did before.
const (
	legacyIndex = "buffers"
	// legacyEvery is how often Run looks for old names while there are none.
	legacyEvery = 15 * time.Second
)

// openLegacy returns the buffer of that name as older releases have it.
func (b *Buffers[ID]) openLegacy(name string) *Buffer[ID] {
	member := b.options.Name + ":" + name
	return &Buffer[ID]{
		Buffers: b, name: name, label: b.options.Label(name), legacy: true,
		keys: keys{prefix: "buffer:{" + member + "}:", index: legacyIndex, member: member},
	}
}

// legacyRound looks at every buffer under old names once, each round while there are any.
func (b *Buffers[ID]) legacyRound(ctx, work context.Context, continuous []string) error {
	if strings.Contains(b.options.Name, ":") || time.Now().Before(b.legacyNext) {
		return nil // older releases refused such a name
	}
	listed, err := b.list(work, legacyIndex, b.options.Name)
	if err != nil {
		return err
	}
	if len(listed) == 0 {
		b.legacyNext = time.Now().Add(jittered(legacyEvery))
	}
	owned := map[string]Ownership{}
	if names := slices.Collect(maps.Keys(listed)); b.options.Ownership != nil && len(names) > 0 {
		if owned, err = b.options.Ownership(work, names); err != nil {
			return err
		}
	}
	for _, name := range continuous {
		if _, known := listed[name]; !known {
			listed[name] = indexEntry{}
		}
	}
	looked := map[string]bool{}
	for name, entry := range listed {
		if ctx.Err() != nil {
			return err
		}
		old := b.openLegacy(name)
		looked[old.keys.prefix] = true
		holds, e := old.Stats(work)
		if e == nil {
			e = old.tend(work, holds, true, owned[name], entry)
		}
		if owned[name] == Unowned && old.due(holds) {
			_, flushed := old.flushOpen(work)
			e = errors.Join(e, flushed)
		}
		err = errors.Join(err, e)
	}
	b.unsee(true, looked)
	return err
}
