-- Shared by the scripts that publish. A user may not be allowed to PUBLISH. What the script has written stays written,
-- so a refusal is returned as a fact and is no error: 1 if it was refused, 0 if not, -1 if there was nothing to publish.
-- Other errors (a slot that moves) are passing: the poll stands behind the message.
local refused = -1
local function note(reply)
  local err = type(reply) == 'table' and reply.err or ''
  -- Redis 7.0 says "ERR The user executing the script can't ...", later servers "ERR ACL failure in script: ...".
  local denied = string.find(err, 'NOPERM', 1, true) or string.find(err, 'ACL failure', 1, true)
    or string.find(err, 'The user executing the script', 1, true)
  refused = math.max(refused, denied and 1 or 0)
end
local function publish(channel, shard_channel, message)
  note(redis.pcall('PUBLISH', channel, message))
  if shard_channel ~= '' then -- on a Cluster
    note(redis.pcall('SPUBLISH', shard_channel, message))
  end
end
