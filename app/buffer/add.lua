-- KEYS: open, its manifest. ARGV: traceparent, traceparents kept, id...
-- Adds ids to what is open, notes when the first of them came and which traces they came from, and returns how many
-- are open. SADD comes first: a Redis that is full refuses it, and with it the whole script.
redis.call('SADD', KEYS[1], unpack(ARGV, 3))
if redis.call('HEXISTS', KEYS[2], 'since') == 0 then
  local now = redis.call('TIME')
  redis.call('HSET', KEYS[2], 'since', string.format('%d%06d', now[1], now[2]))
end
-- The field 'since' is one of them.
if ARGV[1] ~= '' and redis.call('HLEN', KEYS[2]) <= tonumber(ARGV[2]) then
  redis.call('HSETNX', KEYS[2], ARGV[1], '')
end
return redis.call('SCARD', KEYS[1])
