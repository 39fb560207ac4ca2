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

#: A heartbeat. KEYS: workers, leases, meta. ARGV: worker, milliseconds to live, {acquire, release}, a fresh epoch,
#: the version. A lease is `<end in milliseconds> <owner>`. Returns {workers, {name, owner, milliseconds left, ...}}.
HEARTBEAT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local worker, ends = ARGV[1], now + tonumber(ARGV[2])
local names = cmsgpack.unpack(ARGV[3])
if redis.call('HSETNX', KEYS[3], 'epoch', ARGV[4]) == 1 then
  redis.call('HSET', KEYS[3], 'version', ARGV[5])
end
local function left(text) local at = text:find(' ') return tonumber(text:sub(1, at - 1)), text:sub(at + 1) end
redis.call('HSET', KEYS[1], worker, string.format('%.0f', ends))
for _, name in ipairs(names[2]) do
  local held = redis.call('HGET', KEYS[2], name)
  if held then
    local _, owner = left(held)
    if owner == worker then redis.call('HDEL', KEYS[2], name) end
  end
end
local workers, leases, held = {}, {}, {}
local stored = redis.call('HGETALL', KEYS[1])
for at = 1, #stored, 2 do
  local until_ = tonumber(stored[at + 1])
  if until_ <= now then redis.call('HDEL', KEYS[1], stored[at])
  else
    workers[#workers + 1] = stored[at]
    if until_ > ends then redis.call('HSET', KEYS[1], stored[at], string.format('%.0f', ends)) end
  end
end
local function keep(name, owner, until_)
  held[name] = true
  redis.call('HSET', KEYS[2], name, string.format('%.0f %s', until_, owner))
  leases[#leases + 1] = name
  leases[#leases + 1] = owner
  leases[#leases + 1] = until_ - now
end
stored = redis.call('HGETALL', KEYS[2])
for at = 1, #stored, 2 do
  local until_, owner = left(stored[at + 1])
  if until_ <= now and owner ~= worker then redis.call('HDEL', KEYS[2], stored[at])
  elseif owner == worker then keep(stored[at], owner, ends)
  else keep(stored[at], owner, math.min(until_, ends)) end
end
for _, name in ipairs(names[1]) do
  if not held[name] then keep(name, worker, ends) end
end
return {workers, leases}
"""

#: Who lives and holds what, as HEARTBEAT returns it. KEYS: workers, leases.
LEASES = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local workers, leases = {}, {}
local stored = redis.call('HGETALL', KEYS[1])
for at = 1, #stored, 2 do
  if tonumber(stored[at + 1]) > now then workers[#workers + 1] = stored[at] end
end
stored = redis.call('HGETALL', KEYS[2])
for at = 1, #stored, 2 do
  local space = stored[at + 1]:find(' ')
  local until_ = tonumber(stored[at + 1]:sub(1, space - 1))
  if until_ > now then
    leases[#leases + 1] = stored[at]
    leases[#leases + 1] = stored[at + 1]:sub(space + 1)
    leases[#leases + 1] = until_ - now
  end
end
return {workers, leases}
"""

#: A worker gives up everything. KEYS: workers, leases. ARGV: worker.
RESIGN = """
redis.call('HDEL', KEYS[1], ARGV[1])
local stored = redis.call('HGETALL', KEYS[2])
for at = 1, #stored, 2 do
  if stored[at + 1]:sub(stored[at + 1]:find(' ') + 1) == ARGV[1] then redis.call('HDEL', KEYS[2], stored[at]) end
end
"""

#: Old answers go, with the times that they were kept since. KEYS: times, answers. ARGV: before, limit. Returns a count.
PRUNE = """
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
for _, name in ipairs(old) do
  redis.call('ZREM', KEYS[1], name)
  if KEYS[2] then redis.call('HDEL', KEYS[2], name) end
end
return #old
"""
