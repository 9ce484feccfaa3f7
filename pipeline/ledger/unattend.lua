-- Says that a fan-out task no longer attends a tray; the last one that does takes along what lies there.
-- KEYS  tray, who attends it   ARGV  the task's token
-- Returns the event ids that it took
local time = redis.call('TIME')
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('ZCOUNT', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000), '+inf') > 0 then return {} end
local left = redis.call('LRANGE', KEYS[1], 0, -1)
redis.call('DEL', KEYS[1])
return left
