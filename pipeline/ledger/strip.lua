-- Takes from identifier records what is personal: the sealed value, unless an event since the erasure brought it anew, and all links. Words stay: they are the fence.
-- KEYS  for each identifier: its record, the set of deliveries that miss it
for i = 1, #KEYS, 2 do
  local gone = {}
  for _, field in ipairs(redis.call('HKEYS', KEYS[i])) do
    if string.sub(field, 1, 2) == 'l:' then gone[#gone + 1] = field end
  end
  if redis.call('HEXISTS', KEYS[i], 'y') == 0 then gone[#gone + 1] = 'v' end
  for first = 1, #gone, 1000 do redis.call('HDEL', KEYS[i], unpack(gone, first, math.min(first + 999, #gone))) end
  redis.call('DEL', KEYS[i + 1])
end
return 1
