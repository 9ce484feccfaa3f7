-- Remembers which event of a contact awaits a confirmation; one that was confirmed while a worker asked about it is looked at again at once.
-- KEYS  due index, awaiting (contact key -> event id, and ! with an event id that was confirmed meanwhile)   ARGV  contact key, event id, ...
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  if redis.call('HDEL', KEYS[2], '!' .. ARGV[i + 1]) == 1 then redis.call('ZADD', KEYS[1], 'XX', now, ARGV[i + 1]) end
end
return 1
