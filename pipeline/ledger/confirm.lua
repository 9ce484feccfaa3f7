-- Ends deliveries that await a confirmation: the vendor has told of it by itself. One that a worker asks about right now is left to its answer,
-- and looked at again at once should that be from before.
-- KEYS  due index, rows, results, counters, awaiting, outbox (only if evidence is kept)
-- ARGV  counter of the outcome, then for each: event id, result; at the end what is to be recorded
-- Returns for each: 1 confirmed, 0 it does not await one (any more)
-- Uses evidence.lua
local answers, ended = {}, {}
for i = 1, math.floor((#ARGV - 1) / 2) do
  local id = ARGV[2 * i]
  local row = redis.call('HGET', KEYS[2], id)
  local awaits = row and cjson.decode(row)[5] == true
  if awaits and redis.call('ZREM', KEYS[1], id) == 1 then
    redis.call('HDEL', KEYS[2], id)
    redis.call('HSET', KEYS[3], id, ARGV[2 * i + 1])
    redis.call('HINCRBY', KEYS[4], 'done', 1)
    redis.call('HINCRBYFLOAT', KEYS[4], ARGV[1], 1)
    answers[i] = 1
    ended[#ended + 1] = i
  else
    if awaits then redis.call('HSET', KEYS[5], '!' .. id, 1) end
    answers[i] = 0
  end
end
note(KEYS[6], ARGV[#ARGV], ended)
return answers
