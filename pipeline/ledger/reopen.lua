-- Brings ended deliveries back to be told again: a replayed dead letter, a withdrawal that a late write may have undone.
-- KEYS  out index, due index, rows, results, dead index, untold withdrawals, counters, dead counters, leases, outbox (only if evidence is kept)
-- ARGV  1 if only dead ones may come back, 1 for withdrawals, row, then for each: event id, time of receipt in ms, dead counter; at the end what is to be recorded
-- Unless only dead ones may come back, one that a worker is telling right now is taken from it and told again: what it says by now may be undone already.
-- Returns for each: 1 reopened, 0 already unfinished (or not dead where only dead ones may)
-- Uses evidence.lua
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers, again, lost = {}, {}, {}
for i = 1, math.floor((#ARGV - 3) / 3) do
  local a = 3 * i + 1
  local id = ARGV[a]
  local dead = redis.call('ZREM', KEYS[5], id)
  if dead == 0 and (ARGV[1] == '1' or redis.call('ZSCORE', KEYS[1], id) or redis.call('ZSCORE', KEYS[2], id)) then
    answers[i] = 0
    if ARGV[1] ~= '1' and redis.call('HDEL', KEYS[9], id) == 1 and redis.call('ZREM', KEYS[1], id) == 1 then
      lost[#lost + 1] = id
      redis.call('ZADD', KEYS[2], now, id)
    end
  else
    if dead == 1 then redis.call('HINCRBY', KEYS[8], ARGV[a + 2], -1) end
    redis.call('HSET', KEYS[3], id, ARGV[3])
    redis.call('HDEL', KEYS[4], id)
    redis.call('ZADD', KEYS[2], now, id)
    if ARGV[2] == '1' then redis.call('ZADD', KEYS[6], ARGV[a + 1], id) end
    redis.call('HINCRBY', KEYS[7], 'done', -1)
    answers[i] = 1
    again[#again + 1] = i
  end
end
note(KEYS[10], ARGV[#ARGV], again)
note_found(KEYS[10], 'lost', lost)
return answers
