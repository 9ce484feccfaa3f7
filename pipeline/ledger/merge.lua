-- Merges words, values and links into identifier records: last writer wins for each purpose, so it may be repeated and reordered.
-- KEYS  for each identifier: its record, the set of deliveries that miss it
-- ARGV  for each identifier: purpose ("" for none), word, sealed value ("" to leave), number of links, the linked identifier keys
-- Returns for each identifier: {newest word of that purpose, links that are new, 1 if deliveries miss it}
local answers, a = {}, 1
for i = 1, #KEYS / 2 do
  local record = KEYS[2 * i - 1]
  local field, word, value, links = 'p:' .. ARGV[a], ARGV[a + 1], ARGV[a + 2], tonumber(ARGV[a + 3])
  local newest, new_links = '', 0
  if ARGV[a] ~= '' then
    newest = redis.call('HGET', record, field)
    if not newest or word > newest then
      redis.call('HSET', record, field, word)
      newest = word
    end
  end
  if value ~= '' then
    local sealed = redis.call('HGET', record, 'v')
    -- It begins with the id of its vault key: one sealed with another key is replaced, so that keys can be retired.
    if not sealed or string.sub(sealed, 1, 4) ~= string.sub(value, 1, 4) then redis.call('HSET', record, 'v', value) end
  end
  for n = 1, links do
    new_links = new_links + redis.call('HSETNX', record, 'l:' .. ARGV[a + 3 + n], '')
  end
  answers[i] = {newest, new_links, redis.call('EXISTS', KEYS[2 * i])}
  a = a + 4 + links
end
return answers
