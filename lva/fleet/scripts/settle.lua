-- Let streams be claimed: the time of a lease has gone by since the server was opened. ARGV: run id.
if not opened() then return {'boot'} end
redis.call('HSET', root, 'settled', '1')
return {'ok'}
