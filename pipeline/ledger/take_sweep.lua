-- Takes the turn to go on with comparing a destination, if it is time and nobody else has it; begins a pass where none is under way.
-- KEYS  sweep of the destination
-- ARGV  token, lease in ms, ms between samples (0: none), size of a sample, ms between full sweeps (0: none), run of the server, 1 if a full sweep is wanted now
-- Returns {} if it is not time, else {mode, cursor, identifiers that are left of a page, how many are left of a sample, whose answer shows that the vendor is there}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'due', 'until', 'mode', 'server', 'full_at', 'rolling', 'rest')
local wanted = ARGV[7] == '1'
if tonumber(held[2] or '0') > now or (tonumber(held[1] or '0') > now and not (wanted and held[3] ~= 'full')) then return {} end
local mode = held[3]
local function begin(what, cursor, pending)
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, 2) == 'n:' then redis.call('HDEL', KEYS[1], field) end
  end
  redis.call('HSET', KEYS[1], 'mode', what, 'cursor', cursor, 'pending', pending, 'left', what == 'full' and -1 or ARGV[4], 'started', now, 'server', ARGV[6])
  redis.call('HDEL', KEYS[1], 'looked')
  mode = what
end
local full_every, sample_every = tonumber(ARGV[5]), tonumber(ARGV[3])
if wanted and mode ~= 'full' then
  begin('full', 0, '')
elseif not mode then
  if full_every > 0 and tonumber(held[5] or '0') + full_every <= now then
    begin('full', 0, '')
  elseif sample_every > 0 then
    local rolls = held[4] == ARGV[6] and held[6] and not (held[6] == '-1' and held[7] == '')
    begin('sample', rolls and held[6] or 0, rolls and held[7] or '')
  else
    return {}
  end
elseif held[4] ~= ARGV[6] then
  begin(mode, 0, '')
end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'until', now + tonumber(ARGV[2]))
return redis.call('HMGET', KEYS[1], 'mode', 'cursor', 'pending', 'left', 'witness')
