-- The end of a delivery: an older one to the same contact that still awaits its confirmation is looked at now, since a newer word may have overtaken it.
-- KEYS  due index, awaiting (contact key -> event id)   ARGV  event id that ended, contact keys
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV do
  local id = redis.call('HGET', KEYS[2], ARGV[i])
  if id then
    redis.call('HDEL', KEYS[2], ARGV[i])
    if id ~= ARGV[1] and redis.call('ZSCORE', KEYS[1], id) then redis.call('ZADD', KEYS[1], now, id) end
  end
end
return 1
