-- Lifts the quarantine that a person has looked at; one that was set or widened since then stands.
-- KEYS  ledger   ARGV  the quarantine as it was looked at, until when everything was posted again in ms
-- Returns 1 if it was lifted
local time = redis.call('TIME')
if redis.call('HGET', KEYS[1], 'quarantine') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'quarantine')
redis.call('HSET', KEYS[1], 'lifted', ARGV[1] .. '|' .. ARGV[2] .. '|' .. string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000)))
return 1
