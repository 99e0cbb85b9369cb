-- DELETE: leaves a tombstone that refuses every fill begun before it, frees the lease for the next one, and wakes those
-- who wait for a fill that can no longer commit.
-- KEYS  value, lease
-- ARGV  1 how long the tombstone stays, ms  2 channel  3 message
local time = redis.call('TIME')
local tombstone = string.char(1) .. 'T' .. struct.pack('>I8', time[1] * 1000000 + time[2])
redis.call('SET', KEYS[1], tombstone, 'PX', ARGV[1])
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
