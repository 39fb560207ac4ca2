"""What the server does in one go. Lua; every argument that is a list or a number beyond 2^53 comes as MessagePack."""

from __future__ import annotations

#: A step's commit. ARGV[1]: {checks, writes}. A check is {command, key, field, expected}: what the command finds must
#: be what the step found. Returns the number of the first check that fails, and then nothing was written; else 0.
COMMIT = """
local plan = cmsgpack.unpack(ARGV[1])
for number, check in ipairs(plan[1]) do
  if redis.call(check[1], check[2], check[3]) ~= check[4] then return number end
end
for _, command in ipairs(plan[2]) do redis.call(unpack(command)) end
return 0
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

#: What upkeep begins with: the server's clock, and the names of the store, which a server that forgot has lost. KEYS:
#: meta. ARGV: a fresh epoch, the version. Returns seconds and microseconds.
BEGIN_UPKEEP = """
if redis.call('HSETNX', KEYS[1], 'epoch', ARGV[1]) == 1 then redis.call('HSET', KEYS[1], 'version', ARGV[2]) end
return redis.call('TIME')
"""
