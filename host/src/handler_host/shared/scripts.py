"""Scripts that the server runs, one for each decision, so that no two hosts can decide at the same time.

All of them use the server's clock. A window has an amount for each second, and forgets a second after 61 of them:
it is a minute after the last amount at the latest.
"""

from __future__ import annotations

_WINDOW = """
local time = redis.call('TIME')
local second = tonumber(time[1])
local now = second + tonumber(time[2]) / 1000000
local day = math.floor(second / 86400)

-- Returns the sum of the last minute, and the milliseconds until it is below the limit.
local function window(key, limit)
  local entries, kept, total = redis.call('HGETALL', key), {}, 0
  for i = 1, #entries, 2 do
    local at, amount = tonumber(entries[i]), tonumber(entries[i + 1])
    if at + 61 <= now then
      redis.call('HDEL', key, entries[i])
    else
      total = total + amount
      kept[#kept + 1] = {at, amount}
    end
  end
  if limit == 0 or total < limit then return total, 0 end
  table.sort(kept, function(a, b) return a[1] < b[1] end)
  local remaining = total
  for _, entry in ipairs(kept) do
    remaining = remaining - entry[2]
    if remaining < limit then return total, math.ceil((entry[1] + 61 - now) * 1000) end
  end
end

local function add(key, amount)
  redis.call('HINCRBY', key, second, amount)
  redis.call('EXPIRE', key, 120)
end

local function tokens_today(key)
  if tonumber(redis.call('HGET', key, 'day') or -1) ~= day then return 0 end
  return tonumber(redis.call('HGET', key, 'tokens') or 0)
end
"""

COUNT_REQUEST = (
    _WINDOW
    + """
-- KEYS: requests, tokens of the minute, tokens of the day. ARGV: their limits, 0 for none; 1 if tokens are checked.
-- Returns the number of the limit that is reached (0: none), and the milliseconds until it is not.
local limits = {tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])}
if limits[1] > 0 then
  local _, wait = window(KEYS[1], limits[1])
  if wait > 0 then return {1, wait} end
  add(KEYS[1], 1)
end
if ARGV[4] == '1' then
  if limits[2] > 0 then
    local _, wait = window(KEYS[2], limits[2])
    if wait > 0 then return {2, wait} end
  end
  if limits[3] > 0 and tokens_today(KEYS[3]) >= limits[3] then
    return {3, math.ceil(((day + 1) * 86400 - now) * 1000)}
  end
end
return {0, 0}
"""
)

ADD_TOKENS = (
    _WINDOW
    + """
-- KEYS: tokens of the minute, tokens of the day. ARGV: the tokens of a response.
window(KEYS[1], 0)
add(KEYS[1], ARGV[1])
if tonumber(redis.call('HGET', KEYS[2], 'day') or -1) ~= day then
  redis.call('HSET', KEYS[2], 'day', day, 'tokens', 0)
  redis.call('EXPIRE', KEYS[2], 172800)
end
redis.call('HINCRBY', KEYS[2], 'tokens', ARGV[1])
"""
)

READ_TOKENS = (
    _WINDOW
    + """
-- KEYS: tokens of the minute, tokens of the day. Returns both.
local total = window(KEYS[1], 0)
return {total, tokens_today(KEYS[2])}
"""
)

_NOW_MS = """
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
"""

ACQUIRE_SLOT = (
    _NOW_MS
    + """
-- KEYS: slots of a consumer, each with the time at which it expires.
-- ARGV: slot, limit, milliseconds of a slot, then slots to release first.
-- Returns 1 if the slot is acquired, 0 if the limit is reached.
for i = 4, #ARGV do
  redis.call('ZREM', KEYS[1], ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], now_ms + ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
)

KEEP_SLOTS = (
    _NOW_MS
    + """
-- KEYS: slots of a consumer. ARGV: milliseconds of a slot, then slots. One that was released meanwhile stays so.
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], 'XX', now_ms + ARGV[1], ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""
)

COUNT_WRONG_KEY = """
-- KEYS: wrong keys of an address. ARGV: those without a delay, first and longest delay in ms, seconds to forget.
-- Returns the delay of this one in milliseconds.
local excess = redis.call('INCR', KEYS[1]) - tonumber(ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[4])
if excess <= 0 then return 0 end
return math.min(tonumber(ARGV[3]), tonumber(ARGV[2]) * 2 ^ math.min(excess - 1, 10))
"""

KEEP_LARGER = """
-- KEYS: learned memory. ARGV: pairs of a version and its footprint in JSON; the one with the larger peak stays.
for i = 1, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[1], ARGV[i])
  if not known or cjson.decode(known).peak < cjson.decode(ARGV[i + 1]).peak then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
redis.call('EXPIRE', KEYS[1], 7776000)
"""
