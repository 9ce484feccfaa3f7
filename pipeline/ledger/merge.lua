-- Merges words, values and links into identifier records: last writer wins for each purpose, so it may be repeated and reordered.
-- KEYS  for each identifier: its record, the set of deliveries that miss it, and, where it depends on that, the record of the event that says it
-- ARGV  2, or 3 if it depends on the event; then for each identifier: purpose ("" for none), word, sealed value ("" to leave), number of links, the linked identifier keys, and
--       content hash, facts and times of the event: if its record has others, or is not there, nothing is merged
-- What was said before an identifier was erased teaches neither its value nor its links again; words always count.
-- Returns for each identifier: {newest word of that purpose, links that are new, 1 if deliveries miss it}, or 0 if nothing was merged
local answers, a, width = {}, 2, tonumber(ARGV[1])

local function is_said(event, hash, facts, times)
  local known = redis.call('HMGET', event, 'h', 'f', 't')
  return known[1] == hash and known[2] == facts and (known[3] or '') == times
end

local function merge(record, missing)
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
  return {newest, new_links, redis.call('EXISTS', missing)}
end

for i = 1, #KEYS, width do
  local said = a + 4 + tonumber(ARGV[a + 3])
  answers[#answers + 1] = (width == 2 or is_said(KEYS[i + 2], ARGV[said], ARGV[said + 1], ARGV[said + 2])) and merge(KEYS[i], KEYS[i + 1]) or 0
  a = said + (width == 2 and 0 or 3)
end
return answers
