-- Quarantines a ledger that may have forgotten withdrawals, and begins another era of its history, so that marks of the era that was lost fit no more.
-- KEYS  ledger   ARGV  reason, from when on words may be missing in ms, era in which more of it was seen
-- Returns "reason|since|from" as it stands now; who comes second with the same mark changes nothing
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known, era = unpack(redis.call('HMGET', KEYS[1], 'quarantine', 'era'))
if known and tonumber(era or '0') > tonumber(ARGV[3]) then return known end
local from = tonumber(ARGV[2])
if known then from = math.min(from, tonumber(string.match(known, '|(%d+)$'))) end
if tonumber(era or '0') <= tonumber(ARGV[3]) then era = tonumber(ARGV[3]) + 1 end
local value = ARGV[1] .. '|' .. string.format('%d', now) .. '|' .. string.format('%d', from)
redis.call('HSET', KEYS[1], 'quarantine', value, 'era', era)
return value
