-- KEYS: what a caller has spent, one a policy. ARGV: the time in µs, or 0 for this server's; the cost; and then, for
-- each policy: strategy, limit, window in µs.
-- Spends the cost from every policy, or from none. Returns three numbers a policy: the µs until it would admit the cost,
-- 0 if it does now; the units that remain; the µs until they are more. It is `decide` of decide.go over again; a denial
-- writes nothing.
local now, cost = tonumber(ARGV[1]), tonumber(ARGV[2])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1e6 + time[2]
end

-- Longer than anything in it counts: by a second, because a key expires by a clock that is cut off to milliseconds.
local function keepFor(key, window)
  redis.call('PEXPIRE', key, math.ceil(window / 1000) + 1000)
end

-- A number of this size as text: tostring would keep fourteen digits of it.
local function digits(number)
  return string.format('%.0f', number)
end

local exact = {}

-- How many units were spent within a window from now.
function exact.used(key, window)
  local newest = tonumber(redis.call('LINDEX', key, 0))
  if newest and newest > now then -- the clock was set back: so is the log
    local log = redis.call('LRANGE', key, 0, -1)
    redis.call('DEL', key)
    for _, spent in ipairs(log) do
      redis.call('RPUSH', key, digits(spent - (newest - now)))
    end
    keepFor(key, window)
  end
  local used = redis.call('LLEN', key)
  while used > 0 and tonumber(redis.call('LINDEX', key, used - 1)) <= now - window do
    used = used - 1
  end
  return used
end

function exact.spend(key, window, used)
  for _ = 1, cost do
    redis.call('LPUSH', key, digits(now))
  end
  redis.call('LTRIM', key, 0, used + cost - 1)
  keepFor(key, window)
end

-- The µs until only `left` of what was spent still count.
function exact.untilOnly(left, key, window)
  return redis.call('LINDEX', key, left) + window - now
end

local fixed = {}

function fixed.used(key, window)
  local of = redis.call('HMGET', key, 'window', 'count')
  return tonumber(of[1]) == math.floor(now / window) and tonumber(of[2]) or 0
end

function fixed.spend(key, window, used)
  redis.call('HSET', key, 'window', digits(math.floor(now / window)), 'count', used + cost)
  keepFor(key, window)
end

function fixed.untilOnly(_, _, window)
  return (math.floor(now / window) + 1) * window - now
end

local policies, admitted = {}, true
for i, key in ipairs(KEYS) do
  local p = {key = key, by = ARGV[3 * i] == 'exact' and exact or fixed,
    limit = tonumber(ARGV[3 * i + 1]), window = tonumber(ARGV[3 * i + 2]), wait = 0}
  p.used = p.by.used(key, p.window)
  if p.used + cost > p.limit then
    p.wait, admitted = p.by.untilOnly(p.limit - cost, key, p.window), false
  end
  policies[i] = p
end

local verdicts = {}
for _, p in ipairs(policies) do
  if admitted then
    p.by.spend(p.key, p.window, p.used)
    p.used = p.used + cost
  end
  table.insert(verdicts, p.wait)
  table.insert(verdicts, math.max(0, p.limit - p.used))
  table.insert(verdicts, p.used > 0 and p.by.untilOnly(p.used - 1, p.key, p.window) or 0)
end
return verdicts
