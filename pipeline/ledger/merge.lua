-- Merges words, values and links into identifier records: last writer wins for each purpose, so it may be repeated and reordered.
-- KEYS  for each identifier: its record, the set of deliveries that miss it
-- ARGV  for each identifier: purpose ("" for none), word, sealed value ("" to leave), number of links, the linked identifier keys
-- What was said before an identifier was erased teaches neither its value nor its links again; words always count.
-- Returns for each identifier: {newest word of that purpose, links that are new, 1 if deliveries miss it}
local answers, a = {}, 1
for i = 1, #KEYS / 2 do
  local record = KEYS[2 * i - 1]
  local field, word, value, links = 'p:' .. ARGV[a], ARGV[a + 1], ARGV[a + 2], tonumber(ARGV[a + 3])
  local asked, written = {field, 'v', 'x'}, {}
  for n = 1, links do asked[n + 3] = 'l:' .. ARGV[a + 3 + n] end
  local known = redis.call('HMGET', record, unpack(asked))
  local newest = ARGV[a] ~= '' and (known[1] or '') or ''
  if ARGV[a] ~= '' and word > newest then
    newest, written[1], written[2] = word, field, word
  end
  local erased = known[3] and string.sub(word, 1, 16) <= known[3]
  if known[3] and not erased and value ~= '' then written[#written + 1], written[#written + 2] = 'y', 1 end
  -- It begins with the id of its vault key: one sealed with another key is replaced, so that keys can be retired.
  if value ~= '' and not erased and (not known[2] or string.sub(known[2], 1, 4) ~= string.sub(value, 1, 4)) then
    written[#written + 1], written[#written + 2] = 'v', value
  end
  local new_links, fresh = 0, {}
  for n = 1, erased and 0 or links do
    if not known[n + 3] and not fresh[asked[n + 3]] then
      fresh[asked[n + 3]] = true
      new_links = new_links + 1
      written[#written + 1], written[#written + 2] = asked[n + 3], ''
    end
  end
  if #written > 0 then redis.call('HSET', record, unpack(written)) end
  answers[i] = {newest, new_links, redis.call('EXISTS', KEYS[2 * i])}
  a = a + 4 + links
end
return answers
