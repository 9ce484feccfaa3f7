-- Renews the claims and permits of dialogues under way; those that went to somebody else, or are over, are left alone.
-- KEYS  flight
-- ARGV  1 token   2 claim in ms   3 claim prefix   4 number of permits, then the permit numbers, then the identifier keys
-- Returns how many of the claims went to somebody else or ran out
-- Also while memory is full
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local token, hold_ms, permits = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
for a = 5, 4 + permits do redis.call('ZADD', KEYS[1], 'XX', now + hold_ms, token .. ':' .. ARGV[a]) end
local lost = 0
for a = 5 + permits, #ARGV do
  local claim = ARGV[3] .. ARGV[a]
  if redis.call('GET', claim) == token then redis.call('PEXPIRE', claim, hold_ms) else lost = lost + 1 end
end
return lost
