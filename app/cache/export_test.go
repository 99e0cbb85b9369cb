package cache

import "reflect"

// ValueKey and LeaseKey are where Redis keeps what a cache of texts named "test" has of a key.
func ValueKey(key string) string { return testNames().valueKey(key) }
func LeaseKey(key string) string { return testNames().leaseKey(key) }

// Channel is where such caches publish.
func Channel() string { return testNames().channel }

func testNames() names {
	return newNames("default", "test", versionOf(reflect.TypeFor[string](), reflect.TypeFor[JSON[string]]()))
}

// ValueKey is where Redis keeps a value of this cache.
func (c *Cache[V]) ValueKey(key string) string { return c.names.valueKey(key) }
