-- COMMIT: value, release and wake-up in one step, and only if that cannot undo anything newer.
-- KEYS  value, lease
-- ARGV  1 the caller's lease value  2 its token, raw  3 created-at of the new value, microseconds
--       4 how long Redis keeps it, ms  5 header and value  6 channel  7 message  8 how old a fill may be, ms
-- Returns 'committed', or 'lost' when another holds the lease, or something newer is stored or may have been.
local stored = redis.call('GET', KEYS[1])
local holder = redis.call('GET', KEYS[2])
local mine = holder == ARGV[1]

if stored and #stored >= 42 and string.sub(stored, 27, 42) == ARGV[2] then
  if mine then redis.call('DEL', KEYS[2]) end
  return 'committed' -- already: the reply of the first time was lost
end

-- A lease that expired while nobody else took it is no reason to throw the work away; nor is somebody's cooldown.
local free = not holder or string.sub(holder, 1, 1) == '!'
-- Values and tombstones alike carry their created-at here.
local newer = stored and #stored >= 10 and string.byte(stored, 1) == 1
  and struct.unpack('>I8', string.sub(stored, 3, 10)) >= tonumber(ARGV[3])
-- Whatever is stored, and a tombstone too, stays for as long as this: after it, absence proves nothing.
local time = redis.call('TIME')
local outlived = time[1] * 1000000 + time[2] - tonumber(ARGV[3]) >= tonumber(ARGV[8]) * 1000
if not (mine or free) or newer or outlived then
  return 'lost'
end
redis.call('SET', KEYS[1], ARGV[5], 'PX', ARGV[4])
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[6], ARGV[7])
return 'committed'
