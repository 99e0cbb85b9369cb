-- DELETE: leaves a tombstone that refuses every fill begun before it, frees the lease for the next fill, and wakes the
-- waiters of fills that cannot commit any more. For every version of the value.
-- KEYS  value, lease of each version
-- ARGV  1 channel  2 shard channel  3 message  4... how long the tombstone of each version stays, ms
-- Returns refused.
local time = redis.call('TIME')
local tombstone = string.char(1) .. 'T' .. struct.pack('>I8', time[1] * 1000000 + time[2])
for i = 1, #KEYS, 2 do
  redis.call('SET', KEYS[i], tombstone, 'PX', ARGV[3 + (i + 1) / 2])
  redis.call('DEL', KEYS[i + 1])
end
publish(ARGV[1], ARGV[2], ARGV[3])
return refused
