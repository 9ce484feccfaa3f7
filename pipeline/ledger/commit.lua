-- Accepts events: for each new one, record, payload and the mark "still to be fanned out" in one step.
-- The event id is made from source and idempotency key, so the existence of the record is the dedup key.
-- KEYS  open index, counters, then for each event: record, payload; at the end the outbox, if evidence is kept
-- ARGV  fan-out rescue in ms, then for each event: id, facts, times, content hash, sealed payload, lifetimes of its own ("" or "record ms,payload ms"); at the end what is to be recorded
-- Returns for each event: "" new | its facts if it is a duplicate | "!" the id stands for other content
-- Uses evidence.lua
local time = redis.call('TIME')
local look_at = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[1])
local answers, accepted, fresh = {}, 0, {}
for i = 1, math.floor((#KEYS - 2) / 2) do
  local record, payload, a = KEYS[2 * i + 1], KEYS[2 * i + 2], 6 * i - 4
  local known = redis.call('HMGET', record, 'h', 'f', 't')
  if not known[1] then
    redis.call('HSET', record, 'f', ARGV[a + 1], 'h', ARGV[a + 3])
    if ARGV[a + 2] ~= '' then redis.call('HSET', record, 't', ARGV[a + 2]) end
    if ARGV[a + 5] ~= '' then redis.call('HSET', record, 'r', ARGV[a + 5]) end
    redis.call('SET', payload, ARGV[a + 4])
    redis.call('ZADD', KEYS[1], look_at, ARGV[a])
    accepted = accepted + 1
    fresh[accepted] = i
    answers[i] = ''
  elseif known[1] == ARGV[a + 3] then
    -- A write even here: a wait for durability then also covers the original.
    redis.call('HINCRBY', KEYS[2], 'duplicates', 1)
    answers[i] = known[3] and known[2] .. '|' .. known[3] or known[2]
  else
    answers[i] = '!'
  end
end
if accepted > 0 then redis.call('HINCRBY', KEYS[2], 'accepted', accepted) end
note(#KEYS % 2 == 1 and KEYS[#KEYS], ARGV[#ARGV], fresh)
return answers
