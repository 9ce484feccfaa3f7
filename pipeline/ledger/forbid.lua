-- Notes that what was said of identifiers until a time was erased: nothing said until then teaches values or links of them again.
-- KEYS  identifier records   ARGV  for each: time in microseconds, 16 digits
-- Returns for each: 1 noted, 0 it was erased as late as that already
local answers = {}
for i = 1, #KEYS do
  answers[i] = 0
  if (redis.call('HGET', KEYS[i], 'x') or '') < ARGV[i] then
    redis.call('HSET', KEYS[i], 'x', ARGV[i])
    redis.call('HDEL', KEYS[i], 'y')
    answers[i] = 1
  end
end
return answers
