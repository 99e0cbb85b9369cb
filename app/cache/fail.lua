-- FAIL: swaps the lease for a short cooldown, so that those who waited do not retry one after another into whatever is
-- broken, and wakes them.
-- KEYS  lease
-- ARGV  1 the caller's lease value  2 the cooldown's (!|traceparent|replica)  3 its length, ms  4 channel  5 message
-- Returns 1, or 0 when the lease was no longer the caller's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
