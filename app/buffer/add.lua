-- KEYS: open, its manifest, generations, held; on a single server also the index. ARGV: traceparent, traceparents kept,
-- the buffer's name in the index, prefix of the buffer's keys, ids that make a generation, ids that the buffer may hold,
-- a random text, id...
-- Adds ids to what is open, notes when the first of them was added and which traces they are from, and returns how many
-- are open. What is open becomes a generation as soon as it is large enough; then it returns that size. The name of the
-- generation depends on the time, so that a script which is repeated makes another one. A buffer that holds as much as it
-- may refuses. SADD is the first write: a full Redis refuses it and with it the whole script.
local held = redis.call('SCARD', KEYS[1])
if redis.call('EXISTS', KEYS[3]) == 1 then
  held = held + tonumber(redis.call('GET', KEYS[4]) or 0)
end
if held >= tonumber(ARGV[6]) then
  return redis.error_reply('BUFFERFULL it holds ' .. held .. ' ids')
end
redis.call('SADD', KEYS[1], unpack(ARGV, 8))
local now = redis.call('TIME')
redis.call('HSETNX', KEYS[2], 'since', string.format('%d%06d', now[1], now[2]))
if KEYS[5] then
  redis.call('ZADD', KEYS[5], string.format('%d%03d', now[1], now[2] / 1000), ARGV[3])
end
-- The field 'since' is one of them.
if ARGV[1] ~= '' and redis.call('HLEN', KEYS[2]) <= tonumber(ARGV[2]) then
  redis.call('HSETNX', KEYS[2], ARGV[1], '')
end
local open = redis.call('SCARD', KEYS[1])
if open < tonumber(ARGV[5]) then
  return open
end
local hash = redis.sha1hex(ARGV[7] .. now[1] .. '.' .. now[2])
local id = table.concat({hash:sub(1, 8), hash:sub(9, 12), hash:sub(13, 16), hash:sub(17, 20), hash:sub(21, 32)}, '-')
local since = redis.call('HGET', KEYS[2], 'since')
redis.call('HSET', KEYS[2], 'rolled', '')
redis.call('RENAME', KEYS[2], ARGV[4] .. 'gen:' .. id .. ':manifest')
redis.call('RENAME', KEYS[1], ARGV[4] .. 'gen:' .. id)
if redis.call('ZCARD', KEYS[3]) == 0 then
  redis.call('DEL', KEYS[4])
end
redis.call('ZADD', KEYS[3], since, id)
redis.call('INCRBY', KEYS[4], open)
return open
