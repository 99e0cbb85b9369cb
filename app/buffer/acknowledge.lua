#!lua flags=allow-oom
-- KEYS: generation, its manifest, its lease, generations. ARGV: id, token.
-- Removes a generation that Postgres has, unless another process holds its lease; returns whether it did. That process
-- is reading the generation; it will find the record in Postgres and then acknowledge. There is no holder when the lease
-- has expired, or when a full Redis has evicted it.
local holder = redis.call('GET', KEYS[3])
if holder and holder ~= ARGV[2] then
  return 0
end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[1])
return 1
