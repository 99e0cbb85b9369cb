-- KEYS: what a caller has spent, under every policy and strategy. ARGV: channel, caller.
-- Forgets it, and tells the replicas, which may remember a denial. In one step: a replica that hears of it finds nothing.
redis.call('DEL', unpack(KEYS))
return redis.call('PUBLISH', ARGV[1], ARGV[2])
