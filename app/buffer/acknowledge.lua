#!lua flags=allow-oom
-- KEYS: generation, its manifest, its lease, generations. ARGV: id, token.
-- Forgets a generation that Postgres has, if the caller still holds its lease; returns whether it did. Whoever holds it
-- otherwise is reading the generation, will find it in Postgres, and acknowledges it then.
if redis.call('GET', KEYS[3]) ~= ARGV[2] then
  return 0
end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[1])
return 1
