package cache

import (
	"encoding"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"reflect"
)

// versionOf returns the default version of a cache's values: a fingerprint of the shape that the codec writes. Types of
// equal fields, tags and kinds have equal fingerprints, whatever their names. A type that encodes itself is known by
// its name alone: change Options.Version when its encoding changes.
func versionOf(value, codec reflect.Type) string {
	h := fnv.New64a()
	fmt.Fprint(h, codecName(codec), " ")
	describe(h, value, map[reflect.Type]int{})
	return fmt.Sprintf("%016x", h.Sum64())
}

// codecName leaves out type arguments: the name of V is not part of its shape.
func codecName(codec reflect.Type) string {
	name := codec.String()
	for i, r := range name {
		if r == '[' && i > 0 {
			return name[:i]
		}
	}
	return name
}

var selfEncoding = []reflect.Type{
	reflect.TypeFor[json.Marshaler](), reflect.TypeFor[json.Unmarshaler](),
	reflect.TypeFor[encoding.TextMarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](),
	reflect.TypeFor[encoding.BinaryMarshaler](), reflect.TypeFor[encoding.BinaryUnmarshaler](),
}

func encodesItself(t reflect.Type) bool {
	for _, i := range selfEncoding {
		if t.Implements(i) || t.Kind() != reflect.Interface && reflect.PointerTo(t).Implements(i) {
			return true
		}
	}
	return false
}

// describe writes the shape of a type. seen numbers the types on the way, because a type may contain itself.
func describe(w io.Writer, t reflect.Type, seen map[reflect.Type]int) {
	if n, again := seen[t]; again {
		fmt.Fprintf(w, "#%d", n)
		return
	}
	if t.Name() != "" && encodesItself(t) {
		fmt.Fprintf(w, "%s.%s", t.PkgPath(), t.Name())
		return
	}
	seen[t] = len(seen)
	defer delete(seen, t)
	fmt.Fprint(w, t.Kind())
	switch t.Kind() { //nolint:exhaustive // the others have no parts
	case reflect.Struct:
		fmt.Fprint(w, "{")
		for f := range t.Fields() {
			if !f.IsExported() && !f.Anonymous {
				continue
			}
			fmt.Fprintf(w, "%s %t %q ", f.Name, f.Anonymous, f.Tag)
			describe(w, f.Type, seen)
			fmt.Fprint(w, ";")
		}
		fmt.Fprint(w, "}")
	case reflect.Map:
		describe(w, t.Key(), seen)
		fmt.Fprint(w, ":")
		describe(w, t.Elem(), seen)
	case reflect.Array:
		fmt.Fprint(w, t.Len())
		describe(w, t.Elem(), seen)
	case reflect.Pointer, reflect.Slice:
		describe(w, t.Elem(), seen)
	case reflect.Interface:
		fmt.Fprint(w, t.PkgPath(), ".", t.Name()) // its values may have any shape
	}
}
