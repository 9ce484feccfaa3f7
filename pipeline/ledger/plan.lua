-- Plans deliveries of one destination and lane; one that is known already is left as it is, so fan-out may be repeated.
-- KEYS  out index, due index, dead index, results, untold withdrawals, counters, rows, leases, flags, then outbox (only if this is to be recorded),
--       or for each delivery the record of its event (only if nothing is to be planned of one that is noted there as planned: it may have been told since it was read)
-- ARGV  push rescue in ms, 1 for withdrawals, row ("": its hint is sent at once; else it waits with this row), token ("": leased to nobody), lease in ms,
--       then for each delivery: event id, owed since in ms; at the end what is to be recorded
-- Returns for each delivery: 2 planned and leased now, 1 planned now, 0 known already; while the destination is paused none is leased
-- Uses many.lua
-- Uses evidence.lua
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ids = {}
for i = 1, math.floor((#ARGV - 5) / 2) do ids[i] = ARGV[2 * i + 4] end
local is_leased = ARGV[4] ~= '' and redis.call('HEXISTS', KEYS[9], 'paused') == 0
local until_ms = now + tonumber(is_leased and ARGV[5] or ARGV[1])
local out, due, dead, results = look('ZMSCORE', KEYS[1], ids), look('ZMSCORE', KEYS[2], ids), look('ZMSCORE', KEYS[3], ids), look('HMGET', KEYS[4], ids)
local is_recorded, is_looked_up = ARGV[3] ~= '', ARGV[3] == '' and #KEYS > 9
local answers, planned, rows, untold, holders, seen, fresh = {}, {}, {}, {}, {}, {}, {}
for i, id in ipairs(ids) do
  local noted = is_looked_up and redis.call('HMGET', KEYS[9 + i], 'n', 'z') or {}
  if out[i] or due[i] or dead[i] or results[i] or seen[id] or noted[1] or noted[2] then
    answers[i] = 0
  else
    answers[i], seen[id] = is_leased and 2 or 1, true
    fresh[#fresh + 1] = i
    planned[#planned + 1] = ARGV[3] == '' and until_ms or now
    planned[#planned + 1] = id
    if ARGV[3] ~= '' then
      rows[#rows + 1] = id
      rows[#rows + 1] = ARGV[3]
    end
    if is_leased then
      holders[#holders + 1] = id
      holders[#holders + 1] = ARGV[4]
    end
    if ARGV[2] == '1' then
      untold[#untold + 1] = ARGV[2 * i + 5]
      untold[#untold + 1] = id
    end
  end
end
all('ZADD', ARGV[3] == '' and KEYS[1] or KEYS[2], planned)
all('HSET', KEYS[7], rows)
all('HSET', KEYS[8], holders)
all('ZADD', KEYS[5], untold)
if #planned > 0 then redis.call('HINCRBY', KEYS[6], 'planned', #planned / 2) end
note(is_recorded and KEYS[10], ARGV[#ARGV], fresh)
return answers
