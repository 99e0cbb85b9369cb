#!lua flags=allow-oom
-- KEYS: lease. ARGV: token.
-- Gives the lease up if it is the caller's; returns whether it was.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
