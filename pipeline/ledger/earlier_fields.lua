-- Brings forward times in a hash that a clock which was put back would make wait, unless they were written since.
-- KEYS  hash   ARGV  1 step in ms   2 field that says when they were written ("" none does)   then the fields
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local written = ARGV[2] ~= '' and redis.call('HGET', KEYS[1], ARGV[2])
if written and tonumber(written) <= now then return 0 end
for i = 3, #ARGV do
  local at = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0')
  if at > now then redis.call('HSET', KEYS[1], ARGV[i], math.max(now, at - tonumber(ARGV[1]))) end
end
if written then redis.call('HSET', KEYS[1], ARGV[2], now) end
return 1
