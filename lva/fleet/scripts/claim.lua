-- Take a stream. ARGV: run id, incarnation, id; the lease that is there ('' for none) and the last beat of its holder ('' for none).
if not opened() then return {'boot'} end
if redis.call('HGET', root, 'settled') ~= '1' then return {'unsettled'} end
if redis.call('HEXISTS', beats, ARGV[2]) == 0 then return {'replaced'} end
if redis.call('HEXISTS', streams, ARGV[3]) == 0 then return {'gone'} end
local lease = redis.call('HGET', leases, ARGV[3]) or ''
if lease ~= ARGV[4] then return {'taken'} end
local holder = holder_of(lease)
if holder and holder ~= ARGV[2] and (redis.call('HGET', beats, holder) or '') ~= ARGV[5] then return {'taken'} end
local before = redis.call('HGET', epochs, ARGV[3]) or '0'
if before ~= '0' and not (string.match(before, '^[1-9]%d*$') and #before < 16) then
  return {'broken', epochs .. ' has ' .. string.sub(before, 1, 40) .. ', which is no epoch'}
end
local epoch = redis.call('HINCRBY', epochs, ARGV[3], 1)
redis.call('HSET', leases, ARGV[3], ARGV[2] .. ' ' .. epoch)
redis.call('HDEL', offers, ARGV[3])
moved(ARGV[3])
return {'ok', epoch}
