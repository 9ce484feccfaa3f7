-- Adds a count that stands alone to a field of a hash, once: a repeat finds nothing left.   KEYS  count, hash   ARGV  field   Returns what was moved
local count = tonumber(redis.call('GET', KEYS[1]) or '0')
redis.call('DEL', KEYS[1])
if count ~= 0 then redis.call('HINCRBY', KEYS[2], ARGV[1], count) end
return count
