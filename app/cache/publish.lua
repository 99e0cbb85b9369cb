-- Shared by the scripts that publish. A user may not be allowed to PUBLISH. What the script has written stays written,
-- so a refusal is returned as a fact and is no error.
local refused = 0
local function publish(channel, shard_channel, message)
  local reply = redis.pcall('PUBLISH', channel, message)
  if type(reply) == 'table' and reply.err then
    refused = 1
  end
  if shard_channel ~= '' then -- on a Cluster
    reply = redis.pcall('SPUBLISH', shard_channel, message)
    if type(reply) == 'table' and reply.err then
      refused = 1
    end
  end
end
