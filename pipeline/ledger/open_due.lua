-- Finds events that somebody must look at: not fanned out in time (their hint was lost), or fanned out long ago and still open.
-- One that stays open is looked at ever more seldom, once an hour in the end: a backlog of millions would be all that a worker sees.
-- KEYS  open index   ARGV  most of them, fan-out rescue in ms, audit in ms, key prefix of the records, after how many ms one is overdue, how long it is then put off
-- Returns {events to fan out again, events whose deliveries to audit}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lost, stale = {}, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local record = redis.call('HMGET', ARGV[4] .. id, 'n', 't', 'f')
  local received = tonumber(string.match(record[2] or record[3] or '', '(%d+)$'))
  local age = received and math.min(now - received / 1000, 3600000) or 0
  if record[1] then
    stale[#stale + 1] = id
    redis.call('ZADD', KEYS[1], now + math.max(tonumber(ARGV[3]), age), id)
  else
    lost[#lost + 1] = id
    redis.call('ZADD', KEYS[1], now + (age >= tonumber(ARGV[5]) and ARGV[6] or ARGV[2]), id)
  end
end
return {lost, stale}
