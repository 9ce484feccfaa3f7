-- Lets go of a lock that is ours.   KEYS  lock   ARGV  token   Returns 1 if it was
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
