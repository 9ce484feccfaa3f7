-- Finds events that somebody must look at: not fanned out in time (their hint was lost), or fanned out long ago and still open.
-- One that stays open is looked at ever more seldom, once an hour in the end: a backlog of millions would be all that a worker sees.
-- KEYS  open index   ARGV  most of them, fan-out rescue in ms, audit in ms, key prefix of the records
-- Returns {events to fan out again, events whose deliveries to audit}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lost, stale = {}, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local record = redis.call('HMGET', ARGV[4] .. id, 'n', 't', 'f')
  if record[1] then
    local received = tonumber(string.match(record[2] or record[3], '(%d+)$'))
    stale[#stale + 1] = id
    redis.call('ZADD', KEYS[1], now + math.max(tonumber(ARGV[3]), math.min(now - received / 1000, 3600000)), id)
  else
    lost[#lost + 1] = id
    redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), id)
  end
end
return {lost, stale}
