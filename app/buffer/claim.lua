#!lua flags=allow-oom
-- KEYS: generation, its manifest, its lease, generations. ARGV: id, token, lease in ms.
-- Takes the lease of a generation if it is free or already the caller's. Returns the generation's size and the fields of
-- its manifest; size 0 when another process holds the lease, -1 when the generation does not exist any more.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('ZREM', KEYS[4], ARGV[1])
  return {-1}
end
local holder = redis.call('GET', KEYS[3])
if holder and holder ~= ARGV[2] then
  return {0}
end
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
return {redis.call('SCARD', KEYS[1]), unpack(redis.call('HKEYS', KEYS[2]))}
