-- Replaces a sealed value by the same value under another key, unless it has changed meanwhile; how long it is kept stays as it was.
-- KEYS  string, or hash   ARGV  field of the hash ("" for a string), the value as it was, the value as it shall be
-- Returns 1 if it was replaced
local is_string = ARGV[1] == ''
local held = is_string and redis.call('GET', KEYS[1]) or not is_string and redis.call('HGET', KEYS[1], ARGV[1])
if held ~= ARGV[2] then return 0 end
if is_string then redis.call('SET', KEYS[1], ARGV[3], 'KEEPTTL') else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
return 1
