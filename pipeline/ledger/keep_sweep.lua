-- Notes how far a destination has been compared and what was found, as long as the turn is still ours: whoever goes on begins there.
-- KEYS  sweep of the destination
-- ARGV  token, cursor, identifiers left of the page, how many are left of the sample, 1 if the pass ends here, ms until the next turn (-1: keep this one), lease in ms,
--       1 if the vendor could not be asked (0: it could, 2: nobody tried), identifiers looked at, whose answer shows that the vendor is there, why it could not be asked, then field and step of each count
-- Returns how often in a row the vendor could not be asked by now, or -1 if the turn went to somebody else
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return -1 end
redis.call('HSET', KEYS[1], 'cursor', ARGV[2], 'pending', ARGV[3], 'left', ARGV[4], 'witness', ARGV[10])
redis.call('HINCRBY', KEYS[1], 'looked', ARGV[9])
for i = 12, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], 'n:' .. ARGV[i], ARGV[i + 1])
  redis.call('HINCRBY', KEYS[1], 't:' .. ARGV[i], ARGV[i + 1])
end
local failures = 0
if ARGV[8] == '1' then
  failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
  redis.call('HSET', KEYS[1], 'failure', ARGV[11])
elseif ARGV[8] == '0' then
  redis.call('HDEL', KEYS[1], 'failures', 'failure')
end
if ARGV[5] == '1' then
  local mode = redis.call('HGET', KEYS[1], 'mode')
  local of_mode = mode == 'full' and 'lf:' or 'ls:' -- a sample does not hide what the last full sweep found
  local fields = redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'l:' or string.sub(fields[i], 1, 3) == of_mode then redis.call('HDEL', KEYS[1], fields[i]) end
  end
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'n:' then
      local name = string.sub(fields[i], 3)
      redis.call('HSET', KEYS[1], 'l:' .. name, fields[i + 1], of_mode .. name, fields[i + 1])
      redis.call('HDEL', KEYS[1], fields[i])
    end
  end
  redis.call('HSET', KEYS[1], 'last_mode', mode, 'last_at', now)
  if mode == 'full' then
    redis.call('HSET', KEYS[1], 'full_at', now)
  else
    redis.call('HSET', KEYS[1], 'rolling', ARGV[2], 'rest', ARGV[3]) -- the next sample goes on here
  end
  redis.call('HDEL', KEYS[1], 'mode', 'cursor', 'pending', 'left')
end
if tonumber(ARGV[6]) >= 0 then
  redis.call('HSET', KEYS[1], 'due', now + tonumber(ARGV[6]))
  redis.call('HDEL', KEYS[1], 'holder', 'until')
else
  redis.call('HSET', KEYS[1], 'until', now + tonumber(ARGV[7]))
end
return failures
