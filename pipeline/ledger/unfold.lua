-- Drops results that have been copied into their events' records, unless they changed meanwhile.
-- KEYS  results   ARGV  for each: event id, result
-- Also while memory is full
local dropped = 0
for first = 1, #ARGV, 1000 do
  local ids, gone, last = {}, {}, math.min(first + 999, #ARGV)
  for i = first, last, 2 do ids[#ids + 1] = ARGV[i] end
  for n, held in ipairs(redis.call('HMGET', KEYS[1], unpack(ids))) do
    if held == ARGV[first + 2 * n - 1] then gone[#gone + 1] = ids[n] end
  end
  if #gone > 0 then dropped = dropped + redis.call('HDEL', KEYS[1], unpack(gone)) end
end
return dropped
