-- KEYS: replicas. ARGV: this replica, how long a heartbeat counts in ms.
-- Notes that a replica lives, forgets those that have not been heard of for so long, and returns how many are left.
-- What seems to come later than now was noted by a clock that has been set back since; who lives will say so again.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
