-- Lays accepted events on the tray of their lane, if a fan-out task waits there for them; what is planned already is left out.
-- KEYS  tray, who attends it, then for each event: record
-- ARGV  how many may lie there at the most, for how many ms the tray is kept, then for each event: id
-- Returns 1 if nobody needs to be told of these events, 0 if they are to be announced by a message
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('ZCOUNT', KEYS[2], now, '+inf') == 0 or redis.call('ZCARD', KEYS[1]) + #KEYS - 2 > tonumber(ARGV[1]) then return 0 end
local laid = {}
for i = 3, #KEYS do
  local known = redis.call('HMGET', KEYS[i], 'n', 'z')
  if not known[1] and not known[2] then
    laid[#laid + 1] = now
    laid[#laid + 1] = ARGV[i]
  end
end
if #laid > 0 then
  -- Memory may be full by now: the event is accepted all the same.
  if type(redis.pcall('ZADD', KEYS[1], unpack(laid))) == 'table' then return 0 end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
