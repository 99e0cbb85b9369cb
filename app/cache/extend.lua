-- EXTEND: the heartbeat of a living leader.
-- KEYS  lease
-- ARGV  1 the caller's lease value  2 lease time, ms
-- Returns 1, or 0 when the lease is no longer the caller's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
