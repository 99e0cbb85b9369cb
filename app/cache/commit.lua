-- COMMIT: stores the value, releases the lease and wakes the waiters in one step, unless something newer is there.
-- KEYS  value, lease
-- ARGV  1 channel  2 shard channel  3 message  4 the caller's lease value  5 its token, raw
--       6 created-at of the new value, microseconds  7 how long Redis keeps it, ms  8 header and value
--       9 maximum age of a fill, ms
-- Returns {status, refused}. Status: 'committed', or 'lost' when another replica holds the lease, or
-- something newer is stored or may have been stored.
local stored = redis.call('GET', KEYS[1])
local holder = redis.call('GET', KEYS[2])
local mine, created = holder == ARGV[4], tonumber(ARGV[6])

if stored and #stored >= 42 and string.sub(stored, 27, 42) == ARGV[5] then
  if mine then redis.call('DEL', KEYS[2]) end
  return {'committed', refused} -- already: the reply of the first call was lost
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- A lease that expired and was not taken, or a cooldown, is no reason to drop the value.
local free = not holder or string.sub(holder, 1, 1) == '!'
local newer = false
if stored and #stored >= 10 and string.byte(stored, 1) == 1 then
  -- Values and tombstones have their created-at at the same offset.
  local other = struct.unpack('>I8', string.sub(stored, 3, 10))
  -- A stamp in the future is from a server whose clock was ahead (a failover). It cannot refuse the lease holder, whose
  -- lease this server confirms: a deletion would have taken the lease away.
  newer = other >= created and not (mine and other > now)
end
-- A stored value or tombstone stays at least this long. After that its absence proves nothing.
local outlived = now - created >= tonumber(ARGV[9]) * 1000
-- The same failover, seen by a fill that has lost its lease: its order cannot be known.
local unordered = not mine and created > now
if not (mine or free) or newer or outlived or unordered then
  if mine then
    redis.call('DEL', KEYS[2])
    publish(ARGV[1], ARGV[2], ARGV[3])
  end
  return {'lost', refused}
end
redis.call('SET', KEYS[1], ARGV[8], 'PX', ARGV[7])
redis.call('DEL', KEYS[2])
publish(ARGV[1], ARGV[2], ARGV[3])
return {'committed', refused}
