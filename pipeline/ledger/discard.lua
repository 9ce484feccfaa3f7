-- Closes dead letters by a person's decision.
-- KEYS  dead index, rows, results, untold withdrawals, counters, dead counters
-- ARGV  for each: event id, result, dead counter
-- Returns for each: 1 discarded, 0 it was not dead
local answers = {}
for i = 1, #ARGV / 3 do
  local id = ARGV[3 * i - 2]
  if redis.call('ZREM', KEYS[1], id) == 1 then
    redis.call('HDEL', KEYS[2], id)
    redis.call('HSET', KEYS[3], id, ARGV[3 * i - 1])
    redis.call('ZREM', KEYS[4], id)
    redis.call('HINCRBY', KEYS[6], ARGV[3 * i], -1)
    redis.call('HINCRBY', KEYS[5], 'discarded', 1)
    answers[i] = 1
  else
    answers[i] = 0
  end
end
return answers
