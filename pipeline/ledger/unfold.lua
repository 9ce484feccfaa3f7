-- Drops results that have been copied into their events' records, unless they changed meanwhile.
-- KEYS  results   ARGV  for each: event id, result
local dropped = 0
for i = 1, #ARGV / 2 do
  if redis.call('HGET', KEYS[1], ARGV[2 * i - 1]) == ARGV[2 * i] then
    dropped = dropped + redis.call('HDEL', KEYS[1], ARGV[2 * i - 1])
  end
end
return dropped
