-- KEYS: index; on a single server also what is open, and generations. ARGV: buffer, when it was last added to, how long
-- ago that must be in ms.
-- Takes a buffer from the index unless it was added to since, or is not empty.
local added = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not added or tonumber(added) ~= tonumber(ARGV[2]) then
  return 0
end
local now = redis.call('TIME')
if now[1] * 1000 + now[2] / 1000 - tonumber(added) < tonumber(ARGV[3]) then
  return 0
end
if KEYS[2] and redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then
  return 0
end
return redis.call('ZREM', KEYS[1], ARGV[1])
