-- Says that a fan-out task no longer attends a tray, and takes along what lies there if nobody else does. If the answer is lost, the ledger finds it.
-- KEYS  tray, who attends it   ARGV  the task's token ("" for who only looks after what was left)
-- Returns the event ids that it took
local time = redis.call('TIME')
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('ZCOUNT', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000), '+inf') > 0 then return {} end
local left = redis.call('ZRANGE', KEYS[1], 0, -1)
if #left > 0 then redis.call('DEL', KEYS[1]) end
return left
