-- Has open events looked at soon that would be looked at much later.
-- KEYS  open index   ARGV  most of them, audit in ms
-- Returns how many
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local later = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now + tonumber(ARGV[2]), '+inf', 'LIMIT', 0, ARGV[1])
for _, id in ipairs(later) do redis.call('ZADD', KEYS[1], now, id) end
return #later
