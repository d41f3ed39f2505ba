-- Give up a stream: its worker has ended. ARGV: run id, incarnation, id, epoch.
if not opened() then return {'boot'} end
if not holds(ARGV[3], ARGV[2], ARGV[4]) then return {'lost'} end
redis.call('HDEL', leases, ARGV[3])
moved(ARGV[3])
return {'ok'}
