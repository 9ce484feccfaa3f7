-- Reads counters and the sizes of indexes at one moment, so that they can be held against each other.
-- KEYS  counters, then the indexes   Returns {counters as field, value, ...; size of each index}
local answer = {redis.call('HGETALL', KEYS[1])}
for i = 2, #KEYS do answer[i] = redis.call('ZCARD', KEYS[i]) end
return answer
