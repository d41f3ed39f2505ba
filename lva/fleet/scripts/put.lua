-- Write a definition. ARGV: run id, id, the version that is there ('0' for none), the new one, row.
if not opened() then return {'boot'} end
local version = redis.call('HGET', versions, ARGV[2]) or '0'
if version ~= ARGV[3] then return {'version', version} end
redis.call('HSET', streams, ARGV[2], ARGV[5])
redis.call('HSET', versions, ARGV[2], ARGV[4])
redis.call('HDEL', states, ARGV[2])
moved(ARGV[2])
return {'ok'}
