-- Brings forward the end of keys that a clock which was put back would keep: claims and late-write marks.
-- KEYS  keys   ARGV  1 step in ms   2 the longest that one may last in ms; one that lasts longer was written before the step
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local step, longest = tonumber(ARGV[1]), tonumber(ARGV[2])
for _, key in ipairs(KEYS) do
  local left = redis.call('PTTL', key)
  if left > longest then
    left = math.max(1, math.min(left - step, longest))
    if string.match(redis.call('GET', key), '^kept %d+$') then redis.call('SET', key, 'kept ' .. now + left) end
    redis.call('PEXPIRE', key, left)
  end
end
return 1
