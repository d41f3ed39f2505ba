-- Remove a stream that nobody works on, if its users still want that. ARGV: run id, id, the lease that is there ('' for none), the last beat of its holder, the own incarnation.
if not opened() then return {'boot'} end
if redis.call('HGET', wanted, ARGV[2]) ~= 'remove' then return {'wanted'} end
local lease = redis.call('HGET', leases, ARGV[2]) or ''
if lease ~= ARGV[3] then return {'taken'} end
local holder = holder_of(lease)
if holder and holder ~= ARGV[5] and (redis.call('HGET', beats, holder) or '') ~= ARGV[4] then return {'taken'} end
for _, key in ipairs({streams, versions, wanted, states, leases, offers, resumed}) do
  redis.call('HDEL', key, ARGV[2])
end
redis.call('DEL', root .. ':log:' .. ARGV[2])
moved(ARGV[2])
-- That it is gone is told for an hour; an agent that was away for longer reads everything again.
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', removed, now, ARGV[2])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', removed, '-inf', now - 3600, 'LIMIT', 0, 100)) do
  redis.call('ZREM', removed, id)
  local revision = redis.call('ZSCORE', changed, id)
  if redis.call('HEXISTS', streams, id) == 0 and revision then
    redis.call('ZREM', changed, id)
    redis.call('HDEL', epochs, id)
    if tonumber(revision) > (tonumber(redis.call('HGET', root, 'trimmed')) or 0) then
      redis.call('HSET', root, 'trimmed', revision)
    end
  end
end
return {'ok'}
