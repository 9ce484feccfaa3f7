-- Leases deliveries to one worker: those pushed and not leased, those whose lease ran out, and those whose waiting is over.
-- KEYS  out index, due index, leases, rows, flags, outbox (only if evidence is kept)
-- ARGV  token, lease in ms, event ids
-- Returns {now in ms, 1 if the destination is paused, then event id and row ("" if it has none) of each leased delivery}
-- Uses many.lua
-- Uses evidence.lua
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local paused = redis.call('HEXISTS', KEYS[5], 'paused')
local ids = {}
for i = 3, #ARGV do ids[i - 2] = ARGV[i] end
local pushed, leases, rest = look('ZMSCORE', KEYS[1], ids), look('HMGET', KEYS[3], ids), {}
local taken, held_back, unleased, seen, lost = {}, {}, {}, {}, {}
for i, id in ipairs(ids) do
  if seen[id] then
    -- Named twice in one message: once is enough.
  elseif pushed[i] then
    if not leases[i] or leases[i] == ARGV[1] or tonumber(pushed[i]) <= now then
      if leases[i] and leases[i] ~= ARGV[1] then lost[#lost + 1] = id end
      if paused == 1 then
        unleased[#unleased + 1] = id
        held_back[#held_back + 1] = now
        held_back[#held_back + 1] = id
      else
        taken[#taken + 1] = id
      end
    end
  elseif paused == 0 then
    rest[#rest + 1] = id
  end
  seen[id] = true
end
if #unleased > 0 then
  all('HDEL', KEYS[3], unleased)
  all('ZREM', KEYS[1], unleased)
  all('ZADD', KEYS[2], held_back)
end
if #rest > 0 then
  local waiting = {}
  for i, due in ipairs(look('ZMSCORE', KEYS[2], rest)) do
    if due and tonumber(due) <= now then waiting[#waiting + 1] = rest[i] end
  end
  all('ZREM', KEYS[2], waiting)
  for _, id in ipairs(waiting) do taken[#taken + 1] = id end
end
local answer = {now, paused}
if #taken > 0 then
  local until_ms, holders, rows = {}, {}, look('HMGET', KEYS[4], taken)
  for i, id in ipairs(taken) do
    until_ms[2 * i - 1], until_ms[2 * i] = now + tonumber(ARGV[2]), id
    holders[2 * i - 1], holders[2 * i] = id, ARGV[1]
    answer[2 * i + 1], answer[2 * i + 2] = id, rows[i] or ''
  end
  all('ZADD', KEYS[1], until_ms)
  all('HSET', KEYS[3], holders)
end
note_found(KEYS[6], 'lost', lost)
return answer
