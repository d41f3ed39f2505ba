-- What every script begins with. KEYS are those of lva.fleet.server, in its order.
-- ARGV[1] is the run id of this server: its data may be older than what agents know until one of them has opened it.
local root, streams, versions, wanted, states, leases, epochs, offers, changed, removed, beats, agents, resumed = unpack(KEYS)
local boot = ARGV[1]

local function opened()
  return redis.call('HGET', root, 'boot') == boot
end

-- Most that a counter may be. Lua and sorted sets have numbers that are not exact above 2^53; and a counter that
-- another program has set so high begins again, with HIGH to go before it does so once more.
local MOST, HIGH = 2000000000000000, 1000000000000000

-- Set a counter anew, above what it has been: at the time in milliseconds, or a least value.
local function reset(key, field, least)
  local now = redis.call('TIME')
  local value = math.max(now[1] * 1000 + math.floor(now[2] / 1000), least)
  redis.call('HSET', key, field, string.format('%d', value))
  return value
end

-- Raise a counter; return nothing if it is none, or too high: another program has written to it.
local function raised(key, field)
  local value = redis.pcall('HINCRBY', key, field, 1)
  if type(value) == 'number' and value >= 0 and value <= MOST then return value end
end

local function raise(key, field)
  return raised(key, field) or reset(key, field, 0)
end

-- The highest revision up to a bound that a stream has.
local function highest(bound)
  local last = redis.pcall('ZREVRANGEBYSCORE', changed, string.format('%d', bound), '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return math.ceil(tonumber(last[2]) or 0)
end

-- Begin again with the revisions: streams that have a higher one than HIGH are told of once more.
local function renumber()
  local revision = reset(root, 'revision', highest(HIGH) + 1)
  for _, id in ipairs(redis.pcall('ZRANGEBYSCORE', changed, string.format('(%d', HIGH), '+inf')) do
    redis.call('ZADD', changed, string.format('%d', revision), id)
  end
  return revision
end

-- Let every agent hear of a stream with its next beat.
local function moved(id)
  redis.call('ZADD', changed, string.format('%d', raised(root, 'revision') or renumber()), id)
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
