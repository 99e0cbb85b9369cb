-- LEASE: decides which replica fills. It reads the value again, because a fill may have ended after the caller's GET.
-- KEYS  value, lease
-- ARGV  1 the caller's lease value (token|traceparent|replica)  2 its lease time, ms
--       3 created-at after which a stored value counts, microseconds: 0 for any; -1 for the time of this call
-- Returns {status, server time in microseconds, value or holder, remaining time of the holder's lease in ms}.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local clock = string.format('%.0f', now)
local after = tonumber(ARGV[3])
if after < 0 then
  after = now
end

local value = redis.call('GET', KEYS[1])
if value and #value >= 67 and string.byte(value, 1) == 1 and string.find('VA', string.sub(value, 2, 2), 1, true) then
  local created, fresh_until = struct.unpack('>I8I8', string.sub(value, 3, 18))
  -- A created-at in the future is from a server whose clock was ahead (a failover). It proves no order.
  if fresh_until > now and created > after and (after == 0 or created <= now) then
    return {'value', clock, value, 0}
  end
end

local holder = redis.call('GET', KEYS[2])
-- Its own token is accepted: a client that lost the reply asks again and must not be locked out by itself.
if not holder or holder == ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
  return {'acquired', clock, '', 0}
end
local status = string.sub(holder, 1, 1) == '!' and 'cooldown' or 'busy'
return {status, clock, holder, redis.call('PTTL', KEYS[2])}
