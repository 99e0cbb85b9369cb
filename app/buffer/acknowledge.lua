#!lua flags=allow-oom
-- KEYS: generation, its manifest, its lease, generations, held. ARGV: id, token.
-- Removes a generation that Postgres has, unless another process holds its lease; returns whether it did. That process
-- is reading the generation; it will find the record in Postgres and then acknowledge. There is no holder when the lease
-- has expired, or when a full Redis has evicted it.
local holder = redis.call('GET', KEYS[3])
if holder and holder ~= ARGV[2] then
  return 0
end
redis.call('DECRBY', KEYS[5], redis.call('SCARD', KEYS[1]))
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[1])
if redis.call('EXISTS', KEYS[4]) == 0 then
  redis.call('DEL', KEYS[5])
end
return 1
