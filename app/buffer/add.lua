-- KEYS: open, its manifest; for the first ids of a pipeline to a single server also the index. ARGV: traceparent,
-- traceparents kept, the buffer's name in the index, id...
-- Adds ids to what is open, notes when the first of them was added and which traces they are from, and returns how many
-- are open. SADD is first: a full Redis refuses it and with it the whole script.
redis.call('SADD', KEYS[1], unpack(ARGV, 4))
if KEYS[3] or redis.call('HEXISTS', KEYS[2], 'since') == 0 then
  local now = redis.call('TIME')
  redis.call('HSETNX', KEYS[2], 'since', string.format('%d%06d', now[1], now[2]))
  if KEYS[3] then
    redis.call('ZADD', KEYS[3], string.format('%d%03d', now[1], now[2] / 1000), ARGV[3])
  end
end
-- The field 'since' is one of them.
if ARGV[1] ~= '' and redis.call('HLEN', KEYS[2]) <= tonumber(ARGV[2]) then
  redis.call('HSETNX', KEYS[2], ARGV[1], '')
end
return redis.call('SCARD', KEYS[1])
