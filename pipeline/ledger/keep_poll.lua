-- Notes how far a source was heard, as long as the turn is still ours: what comes later begins there.
-- KEYS  poll of the source
-- ARGV  token, position, 1 if a full sweep ends here, ms until the next turn (-1: keep this one), lease in ms, 1 if something was heard (0: it failed, 2: nobody was asked),
--       changes that could not be read
-- Returns how often in a row hearing has failed by now, or -1 if the turn went to somebody else
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return -1 end
redis.call('HSET', KEYS[1], 'position', ARGV[2])
local failures = 0
if ARGV[6] == '1' then
  redis.call('HSET', KEYS[1], 'heard', now)
  redis.call('HDEL', KEYS[1], 'failures')
elseif ARGV[6] == '0' then
  failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
end
if ARGV[7] ~= '0' then redis.call('HINCRBY', KEYS[1], 'unreadable', ARGV[7]) end
if ARGV[3] == '1' then
  redis.call('HSET', KEYS[1], 'swept', redis.call('HGET', KEYS[1], 'sweeping') or now)
  redis.call('HDEL', KEYS[1], 'sweeping')
end
if tonumber(ARGV[4]) >= 0 then
  redis.call('HSET', KEYS[1], 'due', now + tonumber(ARGV[4]))
  redis.call('HDEL', KEYS[1], 'holder', 'until')
else
  redis.call('HSET', KEYS[1], 'until', now + tonumber(ARGV[5]))
end
return failures
