-- Closes dead letters: by a person's decision, or because what they were to say was said in another way.
-- KEYS  dead index, rows, results, untold withdrawals, counters, dead counters, outbox (only if evidence is kept)
-- ARGV  counter, then for each: event id, result, dead counter; at the end what is to be recorded
-- Returns for each: 1 closed, 0 it was not dead
-- Uses evidence.lua
local answers, closed = {}, {}
for i = 1, math.floor((#ARGV - 1) / 3) do
  local id = ARGV[3 * i - 1]
  if redis.call('ZREM', KEYS[1], id) == 1 then
    redis.call('HDEL', KEYS[2], id)
    redis.call('HSET', KEYS[3], id, ARGV[3 * i])
    redis.call('ZREM', KEYS[4], id)
    redis.call('HINCRBY', KEYS[6], ARGV[3 * i + 1], -1)
    redis.call('HINCRBY', KEYS[5], ARGV[1], 1)
    answers[i] = 1
    closed[#closed + 1] = i
  else
    answers[i] = 0
  end
end
note(KEYS[7], ARGV[#ARGV], closed)
return answers
