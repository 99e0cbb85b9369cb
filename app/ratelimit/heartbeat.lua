-- KEYS: replicas. ARGV: the member to note, how long a heartbeat counts in ms, the member that marks an unheard reset.
-- Notes that a replica lives, or that a reset could not be published, and forgets what was noted so long ago. Returns how
-- many replicas are left, and when the mark was set, 0 for never. A score later than now was noted by a clock that has
-- been set back since; a replica that lives notes itself again.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. string.format('%.3f', now), '+inf')
redis.call('ZADD', KEYS[1], string.format('%.3f', now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local mark, count = redis.call('ZSCORE', KEYS[1], ARGV[3]), redis.call('ZCARD', KEYS[1])
if mark then
  count = count - 1
end
return {count, mark or ''}
