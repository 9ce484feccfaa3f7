-- Prepended to scripts that say `Uses evidence.lua`: what came true in this step becomes one entry of the slot's outbox, written with the step itself.
-- The caller has prepared what is said of each item; `places` are the items (from 1) for which it came true. Without an outbox no evidence is kept.
local function note(outbox, said, places)
  if outbox and #places > 0 then redis.call('XADD', outbox, '*', 's', said, 'p', table.concat(places, ',')) end
end
-- What only the script knows: deliveries whose lease is taken from a worker that never reported, events that are complete and when their payload goes.
local function note_found(outbox, kind, rows)
  if outbox and #rows > 0 then redis.call('XADD', outbox, '*', 's', '{"kind":"' .. kind .. '","rows":' .. cjson.encode(rows) .. '}', 'p', '') end
end
