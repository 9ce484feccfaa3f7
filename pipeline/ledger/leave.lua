-- Ends dialogues with one account: returns permits and claims, keeps the late-write mark where the answer was not definite, and moves the gate.
-- KEYS  gate, window, flight, and, if the answer is kept for whoever says the same once more because it was lost: where
-- ARGV  1 token   2 per in ms   3 calls reserved for a dialogue (0: no rate)   4 late-write time in ms   5 claim prefix   6 mark prefix
--       7 gate word: "" | ok | failed | paused | misconfigured   8 pause in ms   9 failures that open the breaker   10 first wait in ms   11 longest wait in ms
--       12 number of dialogues, then for each: permit number, calls made
--       then for each instruction: lane, 1 if the answer was definite, number of identifier keys, the keys
-- Returns {1 if the gate opened or closed now, then for each instruction: 1 its claim was still ours, 0 it was outlived}
-- Uses many.lua
-- Also while memory is full
local KEPT_MS = 70000 -- longer than a chunk goes on saying it
if KEYS[4] then
  local first, kept = string.match(redis.call('GET', KEYS[4]) or '', '^(%d+)|(%d+)$')
  if first == ARGV[13] then
    local said = {}
    for digit in string.gmatch(kept, '%d') do said[#said + 1] = tonumber(digit) end
    return said
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local token, per, cost, late_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local dialogues, a = tonumber(ARGV[12]), 13
local landed, made_calls, spared = {}, {}, {}
for d = 1, dialogues do
  local permit, made = token .. ':' .. ARGV[a], tonumber(ARGV[a + 1])
  landed[d] = permit
  if cost > 0 then
    for n = 1, math.max(cost, made) do
      if n <= made then
        made_calls[#made_calls + 1] = now + per
        made_calls[#made_calls + 1] = permit .. ':' .. n
      else
        spared[#spared + 1] = permit .. ':' .. n
      end
    end
  end
  a = a + 2
end
all('ZREM', KEYS[3], landed)
all('ZADD', KEYS[2], made_calls)
all('ZREM', KEYS[2], spared)
local answer, gone = {0}, {}
while a <= #ARGV do
  local lane, definite, count = ARGV[a], ARGV[a + 1] == '1', tonumber(ARGV[a + 2])
  local ours = 1
  local names = {}
  for k = a + 3, a + 2 + count do
    names[#names + 1] = ARGV[5] .. ARGV[k]
    if lane == 'given' then names[#names + 1] = ARGV[6] .. ARGV[k] end
  end
  local held = count > 0 and redis.call('MGET', unpack(names)) or {}
  local step = lane == 'given' and 2 or 1
  for n = 1, #names, step do
    if held[n] == token then gone[#gone + 1] = names[n] else ours = 0 end
    if lane == 'given' then
      -- What an earlier `given` left behind stands as long as it did before this one.
      local name, value = names[n + 1], held[n + 1] or ''
      local kept = tonumber(string.match(value, '^kept (%d+)$'))
      if not kept and value ~= '' and value ~= token then kept = now + redis.call('PTTL', name) end
      local until_ms = math.max(kept or 0, definite and 0 or now + late_ms)
      if until_ms > now then
        redis.call('SET', name, 'kept ' .. until_ms, 'PX', until_ms - now)
      elseif value ~= '' then
        gone[#gone + 1] = name
      end
    end
  end
  answer[#answer + 1] = ours
  a = a + 3 + count
end
for first = 1, #gone, 1000 do redis.call('DEL', unpack(gone, first, math.min(first + 999, #gone))) end
local word = ARGV[7]
if word == 'ok' then
  answer[1] = redis.call('HEXISTS', KEYS[1], 'open')
  redis.call('HDEL', KEYS[1], 'open', 'probe', 'failures', 'reason', 'wait')
elseif word == 'failed' then
  local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
  local was_open = redis.call('HEXISTS', KEYS[1], 'open')
  if failures >= tonumber(ARGV[9]) or was_open == 1 then
    local wait = tonumber(redis.call('HGET', KEYS[1], 'wait') or '0')
    local still = tonumber(redis.call('HGET', KEYS[1], 'until') or '0') > now
    if not still then
      wait = wait == 0 and tonumber(ARGV[10]) or math.min(wait * 2, tonumber(ARGV[11]))
      redis.call('HSET', KEYS[1], 'open', 1, 'wait', wait, 'until', now + wait, 'reason', 'breaker', 'at', now)
      redis.call('HDEL', KEYS[1], 'probe')
    end
    answer[1] = 1 - was_open
  end
elseif word == '' and dialogues > 0 then
  redis.call('HDEL', KEYS[1], 'probe') -- nothing was sent after all: the next may be the probe
elseif word == 'paused' or word == 'misconfigured' then
  local stands = redis.call('HMGET', KEYS[1], 'until', 'at')
  local stands_until = tonumber(stands[1] or '0')
  if tonumber(stands[2] or '0') > now then stands_until = now + stands_until - stands[2] end -- the server's clock was put back since
  local until_ms = math.max(now + tonumber(ARGV[8]), stands_until)
  redis.call('HSET', KEYS[1], 'until', until_ms, 'reason', word == 'paused' and 'retry_after' or word, 'at', now)
  if word == 'misconfigured' then
    answer[1] = 1 - redis.call('HEXISTS', KEYS[1], 'open')
    redis.call('HSET', KEYS[1], 'open', 1)
    redis.call('HDEL', KEYS[1], 'probe')
  end
end
if KEYS[4] then redis.call('SET', KEYS[4], ARGV[13] .. '|' .. table.concat(answer), 'PX', KEPT_MS) end
return answer
