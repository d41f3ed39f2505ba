-- What every script begins with. KEYS are those of lva.fleet.scripts, in its order.
-- ARGV[1] is the run id of this server: its data may be older than what agents know until one of them has opened it.
local root, streams, versions, wanted, states, leases, epochs, offers, changed, removed, beats, agents = unpack(KEYS)
local boot = ARGV[1]

local function opened()
  return redis.call('HGET', root, 'boot') == boot
end

-- Let every agent hear of a stream with its next beat.
local function moved(id)
  redis.call('ZADD', changed, redis.call('HINCRBY', root, 'revision', 1), id)
end

local function holds(id, incarnation, epoch)
  return redis.call('HGET', leases, id) == incarnation .. ' ' .. epoch
end

local function log(id, entry)
  if entry ~= '' then
    redis.call('RPUSH', root .. ':log:' .. id, entry)
    redis.call('LTRIM', root .. ':log:' .. id, -500, -1)
  end
end
