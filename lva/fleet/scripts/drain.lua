-- Let an agent hand over its streams and take none, or take some again. ARGV: run id, name, '1' or '0'.
if not opened() then return {'boot'} end
if ARGV[3] == '1' then
  redis.call('HSET', root, 'drain ' .. ARGV[2], '1')
else
  redis.call('HDEL', root, 'drain ' .. ARGV[2])
end
return {'ok'}
