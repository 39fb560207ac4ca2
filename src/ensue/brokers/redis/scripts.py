"""Lua that runs inside Redis. Each script is atomic: nobody sees a half of it, and a kill leaves all of it or nothing.

An entry's id is `0-<offset>`: `XADD <key> 0-* ...` lets Redis count, from 1 and without holes, and its memory of the
last id outlives trimming. (Ids by the clock, `*`, would grow by a thousand a millisecond: offsets are counted with.)
"""

from __future__ import annotations

#: A stranger who wrote `XADD <key> * ...` has put an id above all of ours, so that nothing could follow. What
#: strangers wrote gets the next offsets instead, in order, with the time that the old id told. `entries-added` has
#: counted every entry that ever was, ours densely, so it is at or above each offset ever used.
_RENUMBER = """
local function info(key)
  local found = redis.pcall('XINFO', 'STREAM', key)
  if found.err then return nil end
  local fields = {}
  for i = 1, #found, 2 do fields[found[i]] = found[i + 1] end
  return fields
end
local function renumber(key)
  local found = info(key)
  if not found or string.sub(found['last-generated-id'], 1, 2) == '0-' then return end
  local strangers = redis.call('XRANGE', key, '1-0', '+')
  for _, entry in ipairs(strangers) do redis.call('XDEL', key, entry[1]) end
  local last = '0-' .. string.format('%.0f', found['entries-added'])
  redis.call('XSETID', key, last, 'ENTRIESADDED', found['entries-added'], 'MAXDELETEDID', last)
  for _, entry in ipairs(strangers) do
    local fields = entry[2]
    fields[#fields + 1] = 'ensueappended'
    fields[#fields + 1] = string.match(entry[1], '^%d+')
    redis.call('XADD', key, '0-*', unpack(fields))
  end
end
"""

#: KEYS: streams. ARGV[1]: packed, for each stream its entries, each a list of fields without `data`.
#: ARGV[2...]: the data of all entries in that order. Returns the last id of each stream. Stops at the first error.
APPEND = (
    _RENUMBER
    + """
local taken, lasts = 1, {}
for number, entries in ipairs(cmsgpack.unpack(ARGV[1])) do
  local key = KEYS[number]
  for _, fields in ipairs(entries) do
    taken = taken + 1
    fields[#fields + 1] = 'data'
    fields[#fields + 1] = ARGV[taken]
    local id = redis.pcall('XADD', key, '0-*', unpack(fields))
    if type(id) == 'table' then -- if that was why, it goes now
      renumber(key)
      id = redis.pcall('XADD', key, '0-*', unpack(fields))
    end
    if type(id) == 'table' then return redis.error_reply(id.err) end
    lasts[number] = id
  end
end
return lasts
"""
)

#: KEYS[1]: stream. ARGV: after, limit, bytes at which to stop. Returns nothing, or three things: a packed list of
#: entries, each its fields without `data`, its offset and the length of its data; the data of all in one; how many
#: entries that are. (Two long strings are read much faster than a thousand short ones.)
READ = (
    _RENUMBER
    + """
local limit, bytes_max = tonumber(ARGV[2]), tonumber(ARGV[3])
local heads, bodies, size = {}, {}, 0
-- Few at first, then as many as fit if they are as large as those: what XRANGE finds is copied before it is looked at.
local fitting = 10
local from = '(0-' .. ARGV[1]
while #heads < limit and size < bytes_max do
  local wanted = math.min(limit - #heads, fitting)
  local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', wanted)
  if #entries > 0 and string.sub(entries[#entries][1], 1, 2) ~= '0-' then
    renumber(KEYS[1])
    entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', wanted)
  end
  for _, entry in ipairs(entries) do
    local fields, data = entry[2], ''
    for i = #fields - 1, 1, -2 do
      if fields[i] == 'data' then
        data = fields[i + 1]
        table.remove(fields, i + 1)
        table.remove(fields, i)
        break
      end
    end
    fields[#fields + 1] = string.sub(entry[1], 3)
    fields[#fields + 1] = tostring(#data)
    heads[#heads + 1] = fields
    bodies[#bodies + 1] = data
    size = size + #data
    if size >= bytes_max then break end
  end
  if #entries < wanted then break end
  fitting = math.min(2 * fitting, 100, math.max(1, math.floor((bytes_max - size) * #heads / math.max(size, 1))))
  from = '(' .. entries[#entries][1]
end
if #heads == 0 then return {} end
return {cmsgpack.pack(heads), table.concat(bodies), #heads}
"""
)

#: KEYS[1]: stream. Returns the first offset, empty when none is held, and the last one ever given.
BOUNDS = (
    _RENUMBER
    + """
renumber(KEYS[1])
local found = info(KEYS[1])
if not found then return {'', '0'} end
local first = found['first-entry']
return {first and string.sub(first[1], 3) or '', string.sub(found['last-generated-id'], 3)}
"""
)

#: KEYS[1]: stream. ARGV: milliseconds, limit. Deletes the oldest entries appended before that; returns how many.
#: An entry of a stranger that tells no time counts as old as the one before it, or else as the one after it.
PRUNE = (
    _RENUMBER
    + """
renumber(KEYS[1])
local before, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local entries = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', limit)
local old, known = 0, false
for number, entry in ipairs(entries) do
  local fields, at = entry[2], nil
  for i = 1, #fields, 2 do
    if fields[i] == 'ensueappended' then at = tonumber(fields[i + 1]) end
  end
  if at and at >= before then break end
  known = known or at ~= nil
  if known then old = number end
end
if old == 0 then return 0 end
for number = 1, old do redis.call('XDEL', KEYS[1], entries[number][1]) end
return old
"""
)

#: KEYS: the topics, the log's name. ARGV: topic, partitions, a name for a log that has none. Returns what is stored.
ENSURE = """
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[3], 'NX')
return {redis.call('HGET', KEYS[1], ARGV[1]), redis.call('GET', KEYS[2])}
"""
