-- FAIL: ends the caller's lease without a value, and wakes the waiters. After a failed fill a cooldown takes the place
-- of the lease, so that the waiters do not retry one after another into whatever is broken.
-- KEYS  lease
-- ARGV  1 channel  2 shard channel  3 message  4 the caller's lease value
--       5 the cooldown's (!|traceparent|replica), or '' for none  6 its length, ms
-- Returns refused. A lease that is not the caller's stays as it is.
if redis.call('GET', KEYS[1]) ~= ARGV[4] then
  return refused
end
if ARGV[5] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[5], 'PX', ARGV[6])
end
publish(ARGV[1], ARGV[2], ARGV[3])
return refused
