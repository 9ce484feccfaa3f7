-- Reads many hashes, and strings beside them, in one answer: a command for each would cost its reader more than the reading.
-- KEYS  hashes, then as many strings or none   ARGV  number of hashes
-- Returns for each hash its fields and values, and for each string its value
local hashes, answers = tonumber(ARGV[1]), {}
for i = 1, #KEYS do answers[i] = redis.call(i <= hashes and 'HGETALL' or 'GET', KEYS[i]) end
return answers
