-- Gives an event whose payload has expired a payload again, made from what standings still hold; an expired record comes back as a finished one.
-- KEYS  counters, record, payload
-- ARGV  record lifetime in ms, payload lifetime in ms, facts and times (used only where the record is gone), sealed payload
-- Returns 1 if it was restored, 0 if it still had its payload
if not redis.call('SET', KEYS[3], ARGV[5], 'NX', 'PX', ARGV[2]) then return 0 end
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('HSET', KEYS[2], 'f', ARGV[3], 'h', '', 'z', 1)
  if ARGV[4] ~= '' then redis.call('HSET', KEYS[2], 't', ARGV[4]) end
  redis.call('PEXPIRE', KEYS[2], ARGV[1])
  redis.call('HINCRBY', KEYS[1], 'accepted', 1)
  redis.call('HINCRBY', KEYS[1], 'finished', 1)
end
return 1
