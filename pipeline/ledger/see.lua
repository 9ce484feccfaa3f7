-- Remembers the state of things by what was seen of them or what they were told, unless something later is known already.
-- KEYS  states (thing -> "state|ms")   ARGV  time of the look or the telling in ms (0: now), then for each: thing, state
local time = redis.call('TIME')
local at = tonumber(ARGV[1])
if at == 0 then at = time[1] * 1000 + math.floor(time[2] / 1000) end
for i = 2, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[1], ARGV[i])
  local known_at = known and tonumber(string.match(known, '|(%d+)$')) or 0
  if known_at <= at then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. '|' .. at) end
end
return 1
