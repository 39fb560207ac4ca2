"""What the server does in one go. Lua; every argument that is a list or a number beyond 2^53 comes as MessagePack."""

from __future__ import annotations

#: A step's commit. ARGV[1]: {checks, writes}. A check is {key, fields, found}: the fields of that hash must hold what
#: the step found, here one after the other, with 0xc1 for what was not there. A row is one value of MessagePack, which
#: ends where it says and never begins with that byte: no other rows come to the same. Returns the number of the first
#: check that fails, and then nothing was written; else 0.
COMMIT = """
local plan = cmsgpack.unpack(ARGV[1])
for number, check in ipairs(plan[1]) do
  local found = redis.call('HMGET', check[1], unpack(check[2]))
  for place = 1, #found do
    if not found[place] then found[place] = '\\193' end
  end
  if table.concat(found) ~= check[3] then return number end
end
for _, command in ipairs(plan[2]) do redis.call(unpack(command)) end
return 0
"""

#: Many fields of a hash. KEYS: the hash. ARGV[1]: the fields. Returns their sizes (-1: no such field), as MessagePack,
#: and the values in one string: two answers for a client to read, in the place of thousands.
FIELDS = """
local fields = cmsgpack.unpack(ARGV[1])
local count = #fields
local sizes, values = {}, {}
for begin = 1, count, 1000 do
  local found = redis.call('HMGET', KEYS[1], unpack(fields, begin, math.min(begin + 999, count)))
  for place = 1, #found do
    local value = found[place]
    sizes[begin + place - 1] = value and #value or -1
    values[begin + place - 1] = value or ''
  end
end
return {cmsgpack.pack(sizes), table.concat(values)}
"""

#: Rows of a lookup with their values. KEYS: lookup, table. ARGV: lowest, highest (as of ZRANGEBYLEX), limit.
FIND = """
local members = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local rows = {}
for number, member in ipairs(members) do
  local length = member:byte(-2) * 256 + member:byte(-1)
  rows[number] = redis.call('HGET', KEYS[2], member:sub(-2 - length, -3))
end
return rows
"""
#: From the end. ARGV: highest, lowest, limit.
FIND_BACKWARD = FIND.replace("ZRANGEBYLEX", "ZREVRANGEBYLEX")

#: What upkeep begins with: the server's clock, and the names of the store, which a server that forgot has lost. KEYS:
#: meta. ARGV: a fresh epoch, the version. Returns seconds and microseconds.
BEGIN_UPKEEP = """
if redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1]) == 1 then redis.call('HSET', KEYS[1], 'version', ARGV[2]) end
return redis.call('TIME')
"""

#: Another epoch, where the one that is to end is still there. KEYS: meta. ARGV: the one that ends, the fresh one.
#: Returns the epoch that there is then. Done once more it changes nothing.
BEGIN_EPOCH = """
local found = redis.call('HGET', KEYS[1], 'epoch')
if found ~= ARGV[1] then return found end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2])
return ARGV[2]
"""
