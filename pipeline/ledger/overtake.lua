-- Ends deliveries that nobody has in hand, because a newer word has overtaken them: those that wait, and those pushed that no lease holds.
-- KEYS  due index, out index, leases, rows, results, untold withdrawals, counters, outbox (only if evidence is kept)
-- ARGV  counter of the outcome, then for each: event id, result; at the end what is to be recorded
-- Returns for each: 1 ended, 0 it is in hand, or ended already
-- Uses evidence.lua
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers, ended, places, lost = {}, 0, {}, {}
for i = 1, math.floor((#ARGV - 1) / 2) do
  local id = ARGV[2 * i]
  local out = redis.call('ZSCORE', KEYS[2], id)
  if redis.call('ZREM', KEYS[1], id) == 1 or (out and (tonumber(out) <= now or redis.call('HEXISTS', KEYS[3], id) == 0)) then
    ended = ended + 1
    answers[i] = 1
    places[ended] = i
    redis.call('ZREM', KEYS[2], id)
    if redis.call('HDEL', KEYS[3], id) == 1 then lost[#lost + 1] = id end
    redis.call('HDEL', KEYS[4], id)
    redis.call('HSET', KEYS[5], id, ARGV[2 * i + 1])
    redis.call('ZREM', KEYS[6], id)
  else
    answers[i] = 0
  end
end
if ended > 0 then
  redis.call('HINCRBY', KEYS[7], 'done', ended)
  redis.call('HINCRBYFLOAT', KEYS[7], ARGV[1], ended)
end
note_found(KEYS[8], 'lost', lost)
note(KEYS[8], ARGV[#ARGV], places)
return answers
