-- Copies what became of deliveries into their events' records; an older result never overwrites a newer one, so it may be repeated.
-- A result is "letter|updated_ms|...": D delivered, K skipped, S superseded, X dead are final; W waiting and A awaiting confirmation reopen the event.
-- KEYS  open index, counters, then for each result: record, payload; at the end the outbox, if evidence is kept
-- ARGV  audit in ms, record lifetime in ms, payload lifetime in ms, then for each result: event id, destination, result
-- Returns for each result: 1 if the event is complete now
-- Uses evidence.lua
-- Also while memory is full
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function is_final(result) return result and string.find('DKSX', string.sub(result, 1, 1), 1, true) ~= nil end
local function updated(result) return tonumber(string.match(result, '^.|(%d+)')) end
local function is_listed(names, name) return string.find(',' .. names .. ',', ',' .. name .. ',', 1, true) ~= nil end
local function count(names)
  if names == '' then return 0 end
  local _, commas = string.gsub(names, ',', '')
  return commas + 1
end
local function set_lifetime(record, payload, own)
  local fields = redis.call('HGETALL', record)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'd:' and string.sub(fields[i + 1], 1, 1) == 'X' then
      redis.call('PERSIST', record)
      redis.call('PERSIST', payload)
      return
    end
  end
  local own_record, own_payload = string.match(own or '', '^(%d*),(%d*)$')
  redis.call('PEXPIRE', record, tonumber(own_record) or ARGV[2])
  redis.call('PEXPIRE', payload, tonumber(own_payload) or ARGV[3])
  return tonumber(own_payload) or tonumber(ARGV[3])
end
local outbox = #KEYS % 2 == 1 and KEYS[#KEYS]
local answers, closed, complete = {}, {}, {}
for i = 1, math.floor((#KEYS - 2) / 2) do
  local record, payload, a = KEYS[2 * i + 1], KEYS[2 * i + 2], 3 * i + 1
  local field, result = 'd:' .. ARGV[a + 1], ARGV[a + 2]
  local held, is_finished, final, planned, facts, own, erased = unpack(redis.call('HMGET', record, field, 'z', 'k', 'n', 'f', 'r', 'x'))
  if erased then result = string.match(result, '^[^S]|[^|]*|[^|]*|[^|]*|[^|]*|') or result end
  answers[i] = 0
  if facts and not (held and updated(held) > updated(result)) then
    if is_finished and not is_final(result) then
      redis.call('HSET', record, field, result)
      redis.call('HDEL', record, 'z')
      local ended, names = 0, {}
      local fields = redis.call('HGETALL', record)
      for n = 1, #fields, 2 do
        if string.sub(fields[n], 1, 2) == 'd:' then
          names[#names + 1] = string.sub(fields[n], 3)
          if is_final(fields[n + 1]) then ended = ended + 1 end
        end
      end
      redis.call('HSET', record, 'k', ended, 'n', table.concat(names, ','))
      if closed[ARGV[a]] then closed[ARGV[a]] = nil else redis.call('HINCRBY', KEYS[2], 'finished', -1) end
      redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[a])
      redis.call('PERSIST', record)
      redis.call('PERSIST', payload)
    elseif planned and not is_finished then
      if not is_listed(planned, ARGV[a + 1]) then planned = planned == '' and ARGV[a + 1] or planned .. ',' .. ARGV[a + 1] end
      local ended = tonumber(final or '0') + (is_final(result) and 1 or 0) - (is_final(held) and 1 or 0)
      if ended >= count(planned) then
        redis.call('HSET', record, field, result, 'z', 1)
        redis.call('HDEL', record, 'k', 'n')
        closed[ARGV[a]] = true
        complete[#complete + 1] = {ARGV[a], set_lifetime(record, payload, own) or -1}
        answers[i] = 1
      else
        redis.call('HSET', record, field, result, 'k', ended, 'n', planned)
      end
    else
      redis.call('HSET', record, field, result)
      if is_finished then set_lifetime(record, payload, own) end
    end
  end
end
local ids = {}
for id in pairs(closed) do ids[#ids + 1] = id end
for first = 1, #ids, 1000 do redis.call('ZREM', KEYS[1], unpack(ids, first, math.min(first + 999, #ids))) end
if #ids > 0 then redis.call('HINCRBY', KEYS[2], 'finished', #ids) end
note_found(outbox, 'done', complete)
return answers
