-- Notes how late it is, and tells by how much the server's clock has been put back since; a step stays noted until somebody has acted on it.
-- KEYS  what is known of the clock: high (never goes back), server   ARGV  now in ms, by whoever notes it
-- Returns the step in ms, 0 if there was none (half a second is none: two notes may come out of order)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', KEYS[1], 'high', 'server')
if tonumber(ARGV[1]) > tonumber(known[1] or '0') then redis.call('HSET', KEYS[1], 'high', ARGV[1]) end
local step = tonumber(known[2] or '0') - now
if step > 500 then return step end
redis.call('HSET', KEYS[1], 'server', now)
return 0
