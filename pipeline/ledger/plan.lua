-- Plans deliveries of one destination and lane; one that is known already is left as it is, so fan-out may be repeated.
-- KEYS  out index, due index, dead index, results, untold withdrawals, counters, rows
-- ARGV  push rescue in ms, 1 for withdrawals, row ("": its hint is sent at once; else it waits with this row), then for each delivery: event id, owed since in ms
-- Returns for each delivery: 1 planned now, 0 known already
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers, planned = {}, 0
for i = 1, (#ARGV - 3) / 2 do
  local id = ARGV[2 * i + 2]
  if redis.call('ZSCORE', KEYS[1], id) or redis.call('ZSCORE', KEYS[2], id) or redis.call('ZSCORE', KEYS[3], id) or redis.call('HEXISTS', KEYS[4], id) == 1 then
    answers[i] = 0
  else
    if ARGV[3] == '' then
      redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), id)
    else
      redis.call('ZADD', KEYS[2], now, id)
      redis.call('HSET', KEYS[7], id, ARGV[3])
    end
    if ARGV[2] == '1' then redis.call('ZADD', KEYS[5], ARGV[2 * i + 3], id) end
    planned = planned + 1
    answers[i] = 1
  end
end
if planned > 0 then redis.call('HINCRBY', KEYS[6], 'planned', planned) end
return answers
