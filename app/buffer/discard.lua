#!lua flags=allow-oom
-- KEYS: open, its manifest, generations, held. ARGV: prefix of the buffer's keys.
-- Removes all ids of a buffer, also those of generations that were made since it was looked at; returns how many.
local ids = redis.call('SCARD', KEYS[1])
for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  local generation = ARGV[1] .. 'gen:' .. id
  ids = ids + redis.call('SCARD', generation)
  redis.call('UNLINK', generation, generation .. ':manifest', ARGV[1] .. 'lease:' .. id)
end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
return ids
