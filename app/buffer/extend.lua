#!lua flags=allow-oom
-- KEYS: lease. ARGV: token, lease in ms.
-- Extends the lease if it is the caller's; returns whether it was.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
