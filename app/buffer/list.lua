#!lua flags=no-writes
-- KEYS: index.
-- Returns the server's time in ms, and the buffers of the index, each followed by when it was last added to.
local now = redis.call('TIME')
return {now[1] * 1000 + math.floor(now[2] / 1000), redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')}
