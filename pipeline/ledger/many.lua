-- Prepended to scripts that say `Uses many.lua`: commands with any number of values, a thousand at a time, since Lua's unpack bears no more than a few thousand.
local function look(command, key, ids)
  local found = {}
  for first = 1, #ids, 1000 do
    for _, value in ipairs(redis.call(command, key, unpack(ids, first, math.min(first + 999, #ids)))) do found[#found + 1] = value end
  end
  return found
end
local function all(command, key, values)
  for first = 1, #values, 1000 do redis.call(command, key, unpack(values, first, math.min(first + 999, #values))) end
end
