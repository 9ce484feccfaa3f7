-- Says that a fan-out task attends a tray for a while.
-- KEYS  who attends it   ARGV  the task's token, for how many ms
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
