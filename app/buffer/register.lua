-- KEYS: index. ARGV: buffer.
-- Puts a buffer into the index, or notes that it was added to now, by the clock of the server that has the index.
local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], string.format('%d%03d', now[1], now[2] / 1000), ARGV[1])
return 1
