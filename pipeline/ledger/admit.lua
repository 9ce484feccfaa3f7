-- Admits dialogues with one account: gate, concurrency and rate for the call, and the exclusive claim of every contact it will name.
-- The rate is exact over any window: a call occupies its place from here until `per` after its answer, and while it is under way.
-- Chunks of one lane that want more connections than there are share them: each leaves the others their part, and they have in turn what cannot be divided.
-- KEYS  gate, window, flight, what each chunk of withdrawals found no room for ("number until"), chunks that found too few connections
-- ARGV  1 token   2 lane (`ask` writes nothing: as `given`, but without a mark)   3 concurrent   4 calls (0: no limit)   5 per in ms   6 calls a dialogue may make   7 batch size
--       8 longest dialogue in ms   9 late-write time in ms   10 share kept for withdrawals, in calls   11 the same in dialogues   12 key prefix of claims
--       13 key prefix of marks   14 first permit number   15 claim in ms, renewed while its holder lives   16 dialogues of its own under way   17 1 if it wants more than it asks for   then for each instruction: number of identifier keys, the keys
-- Returns {dialogues admitted, when to come back in ms, why, then for each instruction: 1 admitted, n > 1 admitted but a late write may come until n,
--       0 no room, -n its contact is claimed until n}
-- Also while memory is full
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local token, lane = ARGV[1], ARGV[2]
local concurrent, calls, per, cost, batch = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local dialogue_ms, late_ms, hold_ms = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[15])
local WANTED_MS, HUNGRY_MS, LOOK_MS, TURN_MS = 3000, 100, 1000, 200 -- the last: a turn is shorter than the patience of who waits for the next
local wanted = 0
for _, value in ipairs(lane ~= 'withdrawn' and redis.call('HVALS', KEYS[4]) or {}) do
  local number, until_ms = string.match(value, '^(%d+) (%d+)$')
  if tonumber(until_ms) > now then wanted = wanted + tonumber(number) end
end

local room, retry_at, why = concurrent, now + 100, ''
local function narrow(most, at, reason)
  if most < room then room, retry_at, why = math.max(0, most), at, reason end
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
local reserved = lane ~= 'withdrawn' and tonumber(ARGV[11]) or 0
narrow(concurrent - redis.call('ZCARD', KEYS[3]) - math.max(reserved, math.min(wanted, concurrent)), now, 'concurrency') -- whoever holds a connection pulls when it is free
if calls > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  local left = calls - redis.call('ZCARD', KEYS[2])
  if lane ~= 'withdrawn' then left = left - math.max(tonumber(ARGV[10]), wanted * cost) end
  local at = now + 100
  if left < cost then
    local oldest = redis.call('ZRANGE', KEYS[2], cost - left - 1, cost - left - 1, 'WITHSCORES')
    -- A call under way stands at the latest time that it may end: what room it leaves is known when it does, which is mostly soon.
    local free_at = tonumber(oldest[2]) or at
    at = math.max(at, free_at > now + per and now + math.min(per, LOOK_MS) or free_at)
  end
  narrow(math.floor(left / cost), at, 'rate')
end
local function part_of(hungry)
  -- As many as it may hold beside the others that are hungry, of what is not held by those who want no more. What cannot be divided is had for a while by one
  -- after the other, once each has its part: whoever ends a dialogue asks in the same moment, and would keep it for ever.
  local pool, held, least = concurrent - reserved, {}, concurrent
  for _, other in ipairs(hungry) do held[other] = 0 end
  for _, permit in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
    local holder = string.match(permit, '^(.*):')
    if held[holder] then held[holder] = held[holder] + 1 elseif holder ~= token then pool = pool - 1 end
  end
  local before = 0
  for other, count in pairs(held) do
    least = math.min(least, count)
    if other < token then before = before + 1 end
  end
  local chunks = #hungry + 1
  local part, rest = math.floor(math.max(0, pool) / chunks), math.max(0, pool) % chunks
  local is_its_turn = (before + math.floor(now / TURN_MS)) % chunks < rest
  return part + (is_its_turn and least >= part and 1 or 0)
end
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now)
local hungry = {}
for _, other in ipairs(redis.call('ZRANGE', KEYS[5], 0, -1)) do
  if other ~= token then hungry[#hungry + 1] = other end
end
if #hungry > 0 then narrow(part_of(hungry) - tonumber(ARGV[16]), now, 'concurrency') end
local gate = redis.call('HMGET', KEYS[1], 'until', 'open', 'probe', 'reason')
if gate[1] and tonumber(gate[1]) > now then
  narrow(0, tonumber(gate[1]), gate[4] or 'paused')
elseif gate[2] then
  if gate[4] == 'misconfigured' then batch = 1 end -- a probe is about one person: in a batch the one who is refused for himself would speak for all
  if gate[3] and tonumber(gate[3]) > now then narrow(0, tonumber(gate[3]), gate[4] or 'breaker') else narrow(1, now + 1000, gate[4] or 'breaker') end
end

local answer, dialogues, in_dialogue, a = {0, 0, ''}, 0, 0, 18
local function claim(from, to)
  -- All keys of a contact or none; one that is taken gives back what was taken before it.
  for k = from, to do
    if not redis.call('SET', ARGV[12] .. ARGV[k], token, 'NX', 'PX', hold_ms) then
      local until_ms = now + math.max(1, redis.call('PTTL', ARGV[12] .. ARGV[k]))
      for other = from, to do
        if other < k then
          redis.call('DEL', ARGV[12] .. ARGV[other])
        elseif other > k then
          local left = redis.call('PTTL', ARGV[12] .. ARGV[other])
          if left > 0 then until_ms = math.max(until_ms, now + left) end
        end
      end
      return until_ms
    end
  end
  return nil
end
local function mark(key, late)
  -- A `given` leaves a mark until its answer is known; a withdrawal learns until when an older one may still act.
  if lane ~= 'given' then
    local left = redis.call('PTTL', key)
    return left > 0 and math.max(late, now + left) or late
  end
  if not redis.call('SET', key, token, 'NX', 'PX', dialogue_ms + late_ms) then
    local left = redis.call('PTTL', key)
    redis.call('SET', key, left > 0 and 'kept ' .. now + left or token, 'PX', math.max(left, dialogue_ms + late_ms))
  end
  return late
end
while a <= #ARGV do
  local count = tonumber(ARGV[a])
  if in_dialogue == 0 and dialogues >= room then
    answer[#answer + 1] = 0
  else
    local busy = claim(a + 1, a + count)
    if busy then
      answer[#answer + 1] = -busy
    else
      local late = 0
      for k = a + 1, a + count do late = mark(ARGV[13] .. ARGV[k], late) end
      answer[#answer + 1] = late > 0 and late or 1
      if in_dialogue == 0 then dialogues = dialogues + 1 end
      in_dialogue = (in_dialogue + 1) % batch
    end
  end
  a = a + 1 + count
end

local first = tonumber(ARGV[14])
local flights, calls_made = {}, {}
for d = 0, dialogues - 1 do
  local permit = token .. ':' .. (first + d)
  flights[2 * d + 1], flights[2 * d + 2] = now + hold_ms, permit
  if calls > 0 then
    for n = 1, cost do
      calls_made[#calls_made + 1] = now + dialogue_ms + per
      calls_made[#calls_made + 1] = permit .. ':' .. n
    end
  end
end
local function add(key, pairs_of)
  for start = 1, #pairs_of, 1000 do redis.call('ZADD', key, unpack(pairs_of, start, math.min(start + 999, #pairs_of))) end
end
add(KEYS[3], flights)
add(KEYS[2], calls_made)
if gate[2] and dialogues > 0 then redis.call('HSET', KEYS[1], 'probe', now + dialogue_ms) end
local refused = 0
for i = 4, #answer do if answer[i] == 0 then refused = refused + 1 end end
if lane == 'withdrawn' then
  if refused > 0 then
    if redis.call('HLEN', KEYS[4]) > 32 then -- chunks that have ended, of which nobody else would take note
      local known = redis.call('HGETALL', KEYS[4])
      for n = 1, #known, 2 do
        if tonumber(string.match(known[n + 1], ' (%d+)$')) <= now then redis.call('HDEL', KEYS[4], known[n]) end
      end
    end
    redis.call('HSET', KEYS[4], token, refused .. ' ' .. now + WANTED_MS)
    redis.call('PEXPIRE', KEYS[4], WANTED_MS)
  else
    redis.call('HDEL', KEYS[4], token)
  end
end
if refused > 0 and why == 'concurrency' or refused == 0 and ARGV[17] == '1' then redis.call('ZADD', KEYS[5], now + HUNGRY_MS, token) else redis.call('ZREM', KEYS[5], token) end
answer[1], answer[2], answer[3] = dialogues, retry_at, why
return answer
