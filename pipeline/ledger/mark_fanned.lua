-- Notes which destinations an event was planned for; from then on the open index looks at its deliveries, not at its fan-out.
-- KEYS  open index, counters, then for each event: record, payload; at the end the outbox, if evidence is kept
-- ARGV  audit in ms, record lifetime in ms, payload lifetime in ms, then for each event: id, destinations (comma between), superseding event id; at the end what is to be recorded
-- Returns for each event: 1 if it is complete
-- Uses evidence.lua
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local outbox = #KEYS % 2 == 1 and KEYS[#KEYS]
local answers, finished, noted, complete = {}, 0, {}, {}
for i = 1, math.floor((#KEYS - 2) / 2) do
  local record, payload, a = KEYS[2 * i + 1], KEYS[2 * i + 2], 3 * i + 1
  local asked = {'f', 'n', 'z', 'r'}
  for destination in string.gmatch(ARGV[a + 1], '[^,]+') do asked[#asked + 1] = 'd:' .. destination end
  local known = redis.call('HMGET', record, unpack(asked))
  if not known[1] or known[2] or known[3] then
    answers[i] = 0
  else
    noted[#noted + 1] = i
    if ARGV[a + 2] ~= '' then redis.call('HSET', record, 's', ARGV[a + 2]) end
    local final, dead = 0, false
    for n = 5, #asked do
      local letter = known[n] and string.sub(known[n], 1, 1)
      if letter and string.find('DKSX', letter, 1, true) then final = final + 1 end
      if letter == 'X' then dead = true end
    end
    if final >= #asked - 4 then
      redis.call('HSET', record, 'z', 1)
      redis.call('HDEL', record, 'k', 'n')
      redis.call('ZREM', KEYS[1], ARGV[a])
      finished = finished + 1
      complete[#complete + 1] = {ARGV[a], -1}
      if not dead then
        local own_record, own_payload = string.match(known[4] or '', '^(%d*),(%d*)$')
        complete[#complete][2] = tonumber(own_payload) or tonumber(ARGV[3])
        redis.call('PEXPIRE', record, tonumber(own_record) or ARGV[2])
        redis.call('PEXPIRE', payload, tonumber(own_payload) or ARGV[3])
      end
      answers[i] = 1
    else
      redis.call('HSET', record, 'n', ARGV[a + 1], 'k', final)
      redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[a])
      answers[i] = 0
    end
  end
end
if finished > 0 then redis.call('HINCRBY', KEYS[2], 'finished', finished) end
note(outbox, ARGV[#ARGV], noted)
note_found(outbox, 'done', complete)
return answers
