-- Brings forward what a clock that was put back would make wait: entries of indexes whose score is the time at which they are due or run out.
-- KEYS  indexes   ARGV  1 step in ms   2 entries further ahead of now than that many ms are brought forward   3 1 if none may lie further ahead afterwards
-- Returns how many entries were brought forward
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local step, longest, moved = tonumber(ARGV[1]), tonumber(ARGV[2]), 0
for _, key in ipairs(KEYS) do
  local from = redis.call('ZCOUNT', key, '-inf', now + longest)
  local entries = redis.call('ZRANGE', key, from, from + 999, 'WITHSCORES')
  while #entries > 0 do
    local fresh = {}
    for i = 1, #entries, 2 do
      local at = math.max(now, tonumber(entries[i + 1]) - step)
      if ARGV[3] == '1' then at = math.min(at, now + longest) end
      fresh[i], fresh[i + 1] = at, entries[i]
    end
    redis.call('ZADD', key, 'XX', unpack(fresh))
    moved, from = moved + #entries / 2, from + 1000
    entries = redis.call('ZRANGE', key, from, from + 999, 'WITHSCORES')
  end
end
return moved
