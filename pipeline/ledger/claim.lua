-- Leases deliveries to one worker: those pushed and not leased, those whose lease ran out, and those whose waiting is over.
-- KEYS  out index, due index, leases, rows, flags
-- ARGV  token, lease in ms, event ids
-- Returns {now in ms, 1 if the destination is paused, then event id and row ("" if it has none) of each leased delivery}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local paused = redis.call('HEXISTS', KEYS[5], 'paused')
local answer = {now, paused}
for i = 3, #ARGV do
  local id = ARGV[i]
  local out = redis.call('ZSCORE', KEYS[1], id)
  local take = false
  if out then
    local lease = redis.call('HGET', KEYS[3], id)
    take = not lease or lease == ARGV[1] or tonumber(out) <= now
    if take and paused == 1 then
      redis.call('HDEL', KEYS[3], id)
      redis.call('ZREM', KEYS[1], id)
      redis.call('ZADD', KEYS[2], now, id)
    end
  elseif paused == 0 then
    local due = redis.call('ZSCORE', KEYS[2], id)
    take = due and tonumber(due) <= now
    if take then redis.call('ZREM', KEYS[2], id) end
  end
  if take and paused == 0 then
    redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), id)
    redis.call('HSET', KEYS[3], id, ARGV[1])
    answer[#answer + 1] = id
    answer[#answer + 1] = redis.call('HGET', KEYS[4], id) or ''
  end
end
return answer
