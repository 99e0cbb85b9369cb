-- KEYS: index. ARGV: buffer, when it was last added to.
-- Takes a buffer from the index unless it has been added to since.
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1])) == tonumber(ARGV[2]) then
  return redis.call('ZREM', KEYS[1], ARGV[1])
end
return 0
