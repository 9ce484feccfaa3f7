-- Takes from identifier records what is personal: the sealed value, unless an event since the erasure brought it anew, and all links. Words stay: they are the fence.
-- KEYS  for each identifier: its record, the set of deliveries that miss it; at the end the outbox, if evidence is kept
-- ARGV  "": whatever was said since | time in microseconds, 16 digits: only from identifiers that nobody has said anything of since, and that no delivery misses; at the end what is to be recorded
-- Returns for each identifier: 1 stripped, 0 left alone
-- Uses evidence.lua
local answers, taken = {}, {}
for i = 1, #KEYS - 1, 2 do
  local gone, fields, is_quiet = {}, redis.call('HGETALL', KEYS[i]), ARGV[1] == '' or redis.call('EXISTS', KEYS[i + 1]) == 0
  for n = 1, #fields, 2 do
    local kind = string.sub(fields[n], 1, 2)
    if kind == 'l:' then gone[#gone + 1] = fields[n] end
    if kind == 'p:' and ARGV[1] ~= '' and string.sub(fields[n + 1], 1, 16) > ARGV[1] then is_quiet = false end
  end
  if is_quiet then
    if redis.call('HEXISTS', KEYS[i], 'y') == 0 then gone[#gone + 1] = 'v' end
    local removed = 0
    for first = 1, #gone, 1000 do removed = removed + redis.call('HDEL', KEYS[i], unpack(gone, first, math.min(first + 999, #gone))) end
    if removed > 0 then taken[#taken + 1] = (i + 1) / 2 end
    redis.call('DEL', KEYS[i + 1])
  end
  answers[#answers + 1] = is_quiet and 1 or 0
end
note(#KEYS % 2 == 1 and KEYS[#KEYS], ARGV[#ARGV], taken)
return answers
