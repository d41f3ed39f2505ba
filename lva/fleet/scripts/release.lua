-- Give up a stream: its worker has ended. ARGV: run id, incarnation, id, epoch.
if not opened() then return {'boot'} end
local lease = redis.call('HGET', leases, ARGV[3])
if lease and not holds(ARGV[3], ARGV[2], ARGV[4]) then return {'lost'} end
if not lease and redis.call('HEXISTS', streams, ARGV[3]) == 0 then return {'lost'} end -- it was removed
redis.call('HDEL', leases, ARGV[3]) -- which may be gone: another program has deleted it, and nobody knows yet
moved(ARGV[3])
return {'ok'}
