-- KEYS: what a caller has spent, one a policy. ARGV: the time in µs, or 0 for this server's; the cost; and then, for
-- each policy: strategy, limit, window in µs.
-- Spends the cost from every policy, or from none. Returns three numbers a policy: the µs until it would admit the cost,
-- 0 if it does now; the units that remain; the µs until they are more. It is `decide` of decide.go over again, in as few
-- calls and tables as it takes, because every request pays for them. A denial writes nothing.
--
-- exact: a list of when each unit was spent, newest first.
-- fixed_window: a hash of a window's number, counted from the clock's zero, and of what was spent in it.
local call, now, cost = redis.call, tonumber(ARGV[1]), tonumber(ARGV[2])
if now == 0 then
  local time = call('TIME')
  now = time[1] * 1e6 + time[2]
end

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
  call('DEL', key)
  for _, spent in ipairs(log) do
    call('RPUSH', key, digits(spent - by))
  end
  keep(key, window)
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
    if admitted then
      for _ = 1, cost do
        used = call('LPUSH', key, digits(now))
      end
      keep(key, window)
    else
      used = call('LLEN', key)
    end
    while used > 0 do
      left = call('LINDEX', key, used - 1) + window - now
      if left > 0 then
        break
      end
      if admitted then
        call('RPOP', key) -- it no longer counts
      end
      used, left = used - 1, 0
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
