-- KEYS: what a caller has spent, under every policy and strategy. ARGV: channel, caller.
-- Forgets it, and tells the replicas, which may remember a denial. In one step: a replica that hears of it finds nothing.
-- Returns why the replicas could not be told, or nothing: a user without the channel has reset the limit all the same.
redis.call('DEL', unpack(KEYS))
local told = redis.pcall('PUBLISH', ARGV[1], ARGV[2])
return type(told) == 'table' and told.err or ''
