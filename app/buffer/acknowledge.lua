#!lua flags=allow-oom
-- KEYS: generation, its manifest, its lease, generations. ARGV: id, token.
-- Forgets a generation that Postgres has, unless another holds its lease; returns whether it did. That one is reading
-- the generation, will find it in Postgres, and acknowledges it then. Nobody holds it when it has run out, or when a
-- Redis that is full has evicted it, as it does with all that expires.
local holder = redis.call('GET', KEYS[3])
if holder and holder ~= ARGV[2] then
  return 0
end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[1])
return 1
