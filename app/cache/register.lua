-- REGISTER: notes that a version of this cache's values may be stored until the given time from now.
-- KEYS  versions: a sorted set of version|tombstone time in ms, by expiry in ms of this server's clock
-- ARGV  1 member  2 how long the registration lasts, ms
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZADD', KEYS[1], 'GT', string.format('%.0f', now + ARGV[2]), ARGV[1])
