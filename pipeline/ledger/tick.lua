-- Notes how late it is, and tells by how much the server's clock has been put back since; a step stays noted until somebody has acted on it.
-- KEYS  what is known of the clock: high (never goes back), server, and the last step with its time: step, stepped
-- ARGV  1 now in ms, by whoever notes it   2 for how many ms a step counts as a late one
-- Returns {step in ms, 0 if there was none (half a second is none: two notes may come out of order), step that was acted on lately, 0 if there was none}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', KEYS[1], 'high', 'server', 'step', 'stepped')
if tonumber(ARGV[1]) > tonumber(known[1] or '0') then redis.call('HSET', KEYS[1], 'high', ARGV[1]) end
local step = tonumber(known[2] or '0') - now
if step > 500 then return {step, 0} end
redis.call('HSET', KEYS[1], 'server', now)
local since = now - tonumber(known[4] or '0')
return {0, since >= 0 and since < tonumber(ARGV[2]) and tonumber(known[3] or '0') or 0}
