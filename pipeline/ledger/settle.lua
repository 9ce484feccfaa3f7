-- Ends what a worker did with its leased deliveries: final, dead, waiting with a time, or given back untouched.
-- A delivery whose lease went to somebody else is left alone; one whose lease was merely dropped still takes a final answer.
-- KEYS  out index, due index, leases, rows, results, dead index, untold withdrawals, counters, dead counters, outbox (only if evidence is kept)
-- ARGV  token, where the answer to leaving its dialogues is kept ("" asks nothing) and the first permit of that, then for each delivery: event id, verb, time in ms, row, result, dead counter, what it is counted as; at the end what is to be recorded
--       verbs: F final, X dead, W wait (row replaced), B give back (row kept); a negative time means that many ms from now
--       counted as: seconds from receipt to told, then counters that go up by one, commas between; "" for nothing. Only what is settled now is counted, so that a repeated run counts nothing twice
-- Returns for each delivery: 1 settled, 0 lost; nothing at all, and nothing is done, if a claim of those dialogues had not lasted (or nobody knows)
-- Uses many.lua
-- Uses evidence.lua
-- Also while memory is full
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function push(list, ...)
  for _, value in ipairs({...}) do list[#list + 1] = value end
end
if ARGV[2] ~= '' then
  local first, lasted = string.match(redis.call('GET', ARGV[2]) or '', '^(%d+)|%d(%d*)$')
  if first ~= ARGV[3] or string.find(lasted, '0', 1, true) then return {} end
end
local answers, first, done, counted, seconds = {}, 4, 0, {}, 0
local held_places = {}
local settled, told, forgotten, results, rows, dead, due, seen = {}, {}, {}, {}, {}, {}, {}, {}
for i = 1, math.floor((#ARGV - first + 1) / 7) do
  local a = first + 7 * (i - 1)
  local id, verb, at, row, result = ARGV[a], ARGV[a + 1], tonumber(ARGV[a + 2]), ARGV[a + 3], ARGV[a + 4]
  if at < 0 then at = now - at end
  local lease = not seen[id] and redis.call('HGET', KEYS[3], id)
  local is_final = verb == 'F' or verb == 'X'
  local held = lease == ARGV[1] or (not seen[id] and not lease and is_final and redis.call('ZSCORE', KEYS[1], id))
  if not held then
    answers[i] = (is_final and redis.call('HGET', KEYS[5], id) == result) and 1 or 0
  else
    answers[i] = 1
    seen[id] = true
    settled[#settled + 1] = id
    held_places[#held_places + 1] = i
    if ARGV[a + 6] ~= '' then
      local took, names = string.match(ARGV[a + 6], '^([^,]*),(.*)$')
      seconds = seconds + tonumber(took)
      counted[names] = (counted[names] or 0) + 1
    end
    if is_final then
      done = done + 1
      push(results, id, result)
    end
    if verb == 'F' then
      forgotten[#forgotten + 1] = id
      told[#told + 1] = id
    elseif verb == 'X' then
      push(rows, id, row)
      push(dead, at, id)
      redis.call('HINCRBY', KEYS[9], ARGV[a + 5], 1)
    else
      push(due, at, id)
      if verb == 'W' then push(rows, id, row) end
    end
  end
end
all('HDEL', KEYS[3], settled)
all('ZREM', KEYS[1], settled)
all('HDEL', KEYS[4], forgotten)
all('HSET', KEYS[4], rows)
all('HSET', KEYS[5], results)
all('ZADD', KEYS[6], dead)
all('ZADD', KEYS[2], due)
all('ZREM', KEYS[7], told)
local steps = {}
for names, times in pairs(counted) do
  for name in string.gmatch(names, '[^,]+') do steps[name] = (steps[name] or 0) + times end
end
for name, times in pairs(steps) do redis.call('HINCRBYFLOAT', KEYS[8], name, times) end
if seconds > 0 then redis.call('HINCRBYFLOAT', KEYS[8], 'told_seconds', string.format('%.6f', seconds)) end
if done > 0 then redis.call('HINCRBY', KEYS[8], 'done', done) end
note(KEYS[10], ARGV[#ARGV], held_places)
return answers
