-- Copies what became of deliveries into their events' records; an older result never overwrites a newer one, so it may be repeated.
-- A result is "letter|updated_ms|...": D delivered, K skipped, S superseded, X dead are final; W waiting and A awaiting confirmation reopen the event.
-- KEYS  open index, counters, then for each result: record, payload
-- ARGV  audit in ms, record lifetime in ms, payload lifetime in ms, then for each result: event id, destination, result
-- Returns for each result: 1 if the event is complete now
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function is_final(result) return result and string.find('DKSX', string.sub(result, 1, 1), 1, true) ~= nil end
local function updated(result) return tonumber(string.match(result, '^.|(%d+)')) end
local function count_destinations(record)
  local planned = redis.call('HGET', record, 'n')
  local count = 0
  if planned then
    for _ in string.gmatch(planned, '[^,]+') do count = count + 1 end
    return count
  end
  for _, field in ipairs(redis.call('HKEYS', record)) do
    if string.sub(field, 1, 2) == 'd:' then count = count + 1 end
  end
  return count
end
local function set_lifetime(record, payload)
  local fields = redis.call('HGETALL', record)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'd:' and string.sub(fields[i + 1], 1, 1) == 'X' then
      redis.call('PERSIST', record)
      redis.call('PERSIST', payload)
      return
    end
  end
  local own_record, own_payload = string.match(redis.call('HGET', record, 'r') or '', '^(%d*),(%d*)$')
  redis.call('PEXPIRE', record, tonumber(own_record) or ARGV[2])
  redis.call('PEXPIRE', payload, tonumber(own_payload) or ARGV[3])
end
local answers = {}
for i = 1, (#KEYS - 2) / 2 do
  local record, payload, a = KEYS[2 * i + 1], KEYS[2 * i + 2], 3 * i + 1
  local field, result = 'd:' .. ARGV[a + 1], ARGV[a + 2]
  local known = redis.call('HMGET', record, field, 'z', 'k', 'n', 'f')
  answers[i] = 0
  if known[5] and not (known[1] and updated(known[1]) > updated(result)) then
    redis.call('HSET', record, field, result)
    local step = (is_final(result) and 1 or 0) - (is_final(known[1]) and 1 or 0)
    if known[2] and not is_final(result) then
      redis.call('HDEL', record, 'z')
      local final, names = 0, {}
      local fields = redis.call('HGETALL', record)
      for n = 1, #fields, 2 do
        if string.sub(fields[n], 1, 2) == 'd:' then
          names[#names + 1] = string.sub(fields[n], 3)
          if is_final(fields[n + 1]) then final = final + 1 end
        end
      end
      redis.call('HSET', record, 'k', final, 'n', table.concat(names, ','))
      redis.call('HINCRBY', KEYS[2], 'finished', -1)
      redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[a])
      redis.call('PERSIST', record)
      redis.call('PERSIST', payload)
    elseif known[2] then
      set_lifetime(record, payload)
    elseif known[4] then
      if not string.find(',' .. known[4] .. ',', ',' .. ARGV[a + 1] .. ',', 1, true) then
        redis.call('HSET', record, 'n', known[4] .. ',' .. ARGV[a + 1])
      end
      local final = tonumber(known[3] or '0') + step
      if final >= count_destinations(record) then
        redis.call('HSET', record, 'z', 1)
        redis.call('HDEL', record, 'k', 'n')
        redis.call('ZREM', KEYS[1], ARGV[a])
        redis.call('HINCRBY', KEYS[2], 'finished', 1)
        set_lifetime(record, payload)
        answers[i] = 1
      else
        redis.call('HSET', record, 'k', final)
      end
    end
  end
end
return answers
