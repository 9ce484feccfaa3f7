-- Takes the turn to poll a source, if it is time and nobody else has it.
-- KEYS  poll of the source: position, due (ms), holder, until (ms), swept and sweeping (ms: begin of the last full sweep, and of the one under way)
-- ARGV  token, lease in ms
-- Returns {} if it is not time, else {position, begin of the last full sweep in ms (0: none yet), begin of this one}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'position', 'due', 'until', 'swept', 'sweeping')
if tonumber(held[2] or '0') > now or tonumber(held[3] or '0') > now then return {} end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'until', now + tonumber(ARGV[2]))
if not held[5] then
  redis.call('HSET', KEYS[1], 'sweeping', now)
  held[5] = now
end
return {held[1] or '', tonumber(held[4] or '0'), tonumber(held[5])}
