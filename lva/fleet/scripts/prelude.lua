-- What every script begins with. KEYS are those of lva.fleet.scripts, in its order.
-- ARGV[1] is the run id of this server: its data may be older than what agents know until one of them has opened it.
local root, streams, versions, wanted, states, leases, epochs, offers, changed, removed, beats, agents = unpack(KEYS)
local boot = ARGV[1]

local function opened()
  return redis.call('HGET', root, 'boot') == boot
end

-- Raise a counter that another program may have written to.
local function raise(key, field)
  local value = redis.pcall('HINCRBY', key, field, 1)
  if type(value) == 'number' then return value end
  local now = redis.call('TIME')
  value = now[1] * 1000 + math.floor(now[2] / 1000)
  redis.call('HSET', key, field, string.format('%d', value))
  return value
end

-- Let every agent hear of a stream with its next beat.
local function moved(id)
  redis.call('ZADD', changed, string.format('%d', raise(root, 'revision')), id)
end

-- The incarnation that a lease names, if it is one.
local function holder_of(lease)
  local holder, epoch = string.match(lease, '^(%S+) (%d+)$')
  if epoch and #epoch < 16 then return holder end
end

local function holds(id, incarnation, epoch)
  return redis.call('HGET', leases, id) == incarnation .. ' ' .. epoch
end

local function log(id, entry)
  if entry ~= '' then
    redis.pcall('RPUSH', root .. ':log:' .. id, entry)
    redis.pcall('LTRIM', root .. ':log:' .. id, -500, -1)
  end
end
