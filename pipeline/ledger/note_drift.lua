-- Remembers that a vendor holds something else of a contact than the standing, and records the questions that showed it.
-- KEYS  what has drifted at the destination, outbox (only if evidence is kept)
-- ARGV  most that are remembered, contact, event id, class, how it was repaired ("" if it was not); at the end what is to be recorded
-- Returns how many are remembered now
-- Uses evidence.lua
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 1 or redis.call('HLEN', KEYS[1]) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], ARGV[2], now .. ' ' .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. ARGV[5])
end
note(KEYS[2], ARGV[6], {1})
return redis.call('HLEN', KEYS[1])
