-- Tells which identifiers have, for a purpose, a word newer than the given one.
-- KEYS  identifier records   ARGV  for each: purpose, word
-- Returns for each: the newer word, or ""
local answers = {}
for i = 1, #KEYS do
  local newest = redis.call('HGET', KEYS[i], 'p:' .. ARGV[2 * i - 1])
  answers[i] = (newest and newest > ARGV[2 * i]) and newest or ''
end
return answers
