-- Takes what is due out of the waiting index to be pushed again, and rescues what was pushed or leased long ago and never settled.
-- KEYS  out index, due index, leases, rows, counters, flags, outbox (only if evidence is kept)
-- ARGV  most of them, push rescue in ms, for how many ms what is rescued must be overdue (empty: nothing is rescued)
-- Returns {event ids that were due, their rows, event ids rescued}
-- Uses evidence.lua
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local pushed_until = now + tonumber(ARGV[2])
local due, rows, rescued, lost = {}, {}, {}, {}
if redis.call('HEXISTS', KEYS[6], 'paused') == 1 then return {due, rows, rescued} end
local overdue = tonumber(ARGV[3])
if overdue then -- first: behind a backlog that is due it would wait for all of it
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - overdue, 'LIMIT', 0, ARGV[1])) do
    rescued[#rescued + 1] = id
    if redis.call('HDEL', KEYS[3], id) == 1 then lost[#lost + 1] = id end
    redis.call('ZADD', KEYS[1], pushed_until, id)
  end
  note_found(KEYS[7], 'lost', lost)
  if #rescued > 0 then redis.call('HINCRBY', KEYS[5], 'rescued', #rescued) end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1] - #rescued)) do
  due[#due + 1] = id
  rows[#rows + 1] = redis.call('HGET', KEYS[4], id) or ''
  redis.call('ZREM', KEYS[2], id)
  redis.call('ZADD', KEYS[1], pushed_until, id)
end
return {due, rows, rescued}
