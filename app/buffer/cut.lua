#!lua flags=allow-oom
-- KEYS: open, its manifest, generations, the new generation, its manifest, its lease, held. ARGV: id, token, lease in ms.
-- Renames what is open to a generation, to which nothing is added any more, and gives its lease to the caller. Returns
-- its size and the fields of its manifest; size 0 when nothing is open. When it is repeated because the reply was lost,
-- it returns the same again: what was added in between is not part of it. A full Redis must allow it, because a flush
-- makes room.
if redis.call('EXISTS', KEYS[4]) == 0 then
  if redis.call('EXISTS', KEYS[1]) == 0 then
    return {0}
  end
  -- First, because it fails for ids that were put there without a manifest: then nothing is half done.
  redis.call('RENAME', KEYS[2], KEYS[5])
  redis.call('RENAME', KEYS[1], KEYS[4])
  if redis.call('ZCARD', KEYS[3]) == 0 then
    redis.call('DEL', KEYS[7]) -- it may have lost count to a release that does not know of it
  end
  redis.call('ZADD', KEYS[3], redis.call('HGET', KEYS[5], 'since'), ARGV[1])
  redis.call('INCRBY', KEYS[7], redis.call('SCARD', KEYS[4]))
end
redis.call('SET', KEYS[6], ARGV[2], 'PX', ARGV[3])
return {redis.call('SCARD', KEYS[4]), unpack(redis.call('HKEYS', KEYS[5]))}
