-- Erases what is personal in events: the sealed payload and the vendors' references. A `given` goes at once, and ends if it was not fanned out yet;
-- a withdrawal goes when all of it has ended and nothing is dead, and until then is made to go by itself then.
-- KEYS  open index, counters, then for each event: record, payload; at the end the outbox, if evidence is kept
-- ARGV  record lifetime in ms, then for each event: id, time of the erasure in microseconds (16 digits), 1 for withdrawals; at the end what is to be recorded
-- Returns for each event: 1 erased (or unknown), 0 it has to be told first
-- Uses evidence.lua
local outbox = #KEYS % 2 == 1 and KEYS[#KEYS]
local answers, finished, gone, complete = {}, 0, {}, {}
for i = 1, math.floor((#KEYS - 2) / 2) do
  local record, payload, a = KEYS[2 * i + 1], KEYS[2 * i + 2], 3 * i - 1
  local facts, planned, ended, own = unpack(redis.call('HMGET', record, 'f', 'n', 'z', 'r'))
  answers[i] = 1
  if not facts then
    redis.call('DEL', payload)
  else
    local own_record, fields, is_dead = string.match(own or '', '^(%d*)') or '', redis.call('HGETALL', record), false
    for n = 1, #fields, 2 do
      if string.sub(fields[n], 1, 2) == 'd:' and string.sub(fields[n + 1], 1, 1) == 'X' then is_dead = true end
    end
    redis.call('HSET', record, 'x', ARGV[a + 1], 'r', own_record .. ',0')
    if ARGV[a + 2] == '1' and (not ended or is_dead) then
      answers[i] = 0
    else
      redis.call('DEL', payload)
      -- Recorded once, whatever has deleted the payload before: its time, the end of a withdrawal that was to be told first, a source that keeps nothing.
      if redis.call('HSETNX', record, 'xe', 1) == 1 then gone[#gone + 1] = i end
      for n = 1, #fields, 2 do
        local kept = string.sub(fields[n], 1, 2) == 'd:' and string.match(fields[n + 1], '^[^S]|[^|]*|[^|]*|[^|]*|[^|]*|')
        if kept then redis.call('HSET', record, fields[n], kept) end
      end
      if not planned and not ended then
        redis.call('HSET', record, 'z', 1)
        redis.call('ZREM', KEYS[1], ARGV[a])
        redis.call('PEXPIRE', record, tonumber(own_record) or ARGV[1])
        finished = finished + 1
        complete[#complete + 1] = {ARGV[a], 0}
      end
    end
  end
end
if finished > 0 then redis.call('HINCRBY', KEYS[2], 'finished', finished) end
note(outbox, ARGV[#ARGV], gone)
note_found(outbox, 'done', complete)
return answers
