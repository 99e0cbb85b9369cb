-- KEYS: what a caller has spent, one a policy. ARGV: the time in µs, or 0 for this server's; the cost; and then, for
-- each policy: strategy, limit, window in µs.
-- Spends the cost from every policy, or from none. Returns three numbers a policy: the µs until it would admit the cost,
-- 0 if it does now; the units that remain; the µs until they are more. It does what `decide` of decide.go does, in few
-- calls and tables, because every request pays for them. A denial writes nothing.
--
-- exact: a list of when each unit was spent, newest first.
-- fixed_window: a hash of a window's number, counted from the clock's zero, and of what was spent in it.
local call, now, cost = redis.call, tonumber(ARGV[1]), tonumber(ARGV[2])
if now == 0 then
  local time = call('TIME')
  now = time[1] * 1e6 + time[2]
end

-- unpack takes up to about 8,000 values.
local CHUNK = 1000

-- tostring would keep fourteen digits of a number of this size.
local function digits(number)
  return string.format('%.0f', number)
end

-- A key is kept for longer than anything in it counts: by a second, because it expires by a clock that is cut off to
-- milliseconds.
local function keep(key, window)
  call('PEXPIRE', key, math.ceil(window / 1000) + 1000)
end

-- The clock was set back: so is the log.
local function setBack(key, by, window)
  local log = call('LRANGE', key, 0, -1)
  for i, spent in ipairs(log) do
    log[i] = digits(spent - by)
  end
  call('DEL', key)
  for first = 1, #log, CHUNK do
    call('RPUSH', key, unpack(log, first, math.min(first + CHUNK - 1, #log)))
  end
  keep(key, window)
end

-- Returns the length of the log.
local function spend(key)
  local unit = digits(now)
  if cost == 1 then
    return call('LPUSH', key, unit)
  end
  local units, length, left = {}, 0, cost
  for i = 1, math.min(cost, CHUNK) do
    units[i] = unit
  end
  while left > 0 do
    length = call('LPUSH', key, unpack(units, 1, math.min(left, CHUNK)))
    left = left - CHUNK
  end
  return length
end

-- Returns how many units of the log still count, and how long the oldest of them does. They are the newest ones, so
-- that it probes from the oldest in steps of 1, 1, 2, 4 and so on, and then bisects.
local function counting(key, length, window)
  local live, expired, step, found, left = 0, length, 1, false, 0
  while live < expired do
    local probe = math.max(live, expired - step)
    local lasts = call('LINDEX', key, probe) + window - now
    if lasts > 0 then
      live, left, found = probe + 1, lasts, true
    else
      expired = probe
    end
    step = found and math.max(1, math.floor((expired - live) / 2)) or length - expired
  end
  return live, left
end

local function spentInWindow(key, window)
  local last = call('HMGET', key, 'window', 'count')
  return tonumber(last[1]) == math.floor(now / window) and tonumber(last[2]) or 0
end

local waits, admitted = {}, true
for i, key in ipairs(KEYS) do
  local limit, window, wait = tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2]), 0
  if ARGV[3 * i] == 'exact' then
    local newest = call('LINDEX', key, 0)
    if newest and newest - now > 0 then
      setBack(key, newest - now, window)
    end
    local inTheWay = call('LINDEX', key, limit - cost)
    if inTheWay then
      wait = math.max(0, inTheWay + window - now)
    end
  elseif spentInWindow(key, window) + cost > limit then
    wait = window - now % window
  end
  waits[i], admitted = wait, admitted and wait == 0
end

local verdicts = {}
for i, key in ipairs(KEYS) do
  local limit, window, used, left = tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2]), 0, 0
  if ARGV[3 * i] == 'exact' then
    local length = admitted and spend(key) or call('LLEN', key)
    used, left = counting(key, length, window)
    if admitted then
      if used < length then
        call('LTRIM', key, 0, used - 1)
      end
      keep(key, window)
    end
    if used > limit then -- the limit was lowered, so more than one must end
      left = call('LINDEX', key, limit - 1) + window - now
    end
  else
    used = spentInWindow(key, window)
    if admitted then
      used = used + cost
      call('HSET', key, 'window', digits(math.floor(now / window)), 'count', used)
      keep(key, window)
    end
    if used > 0 then
      left = window - now % window
    end
  end
  verdicts[3 * i - 2], verdicts[3 * i - 1], verdicts[3 * i] = waits[i], math.max(0, limit - used), left
end
return verdicts
