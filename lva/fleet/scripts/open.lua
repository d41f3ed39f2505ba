-- Make the table of this server usable: it is a new one, or has been restarted. ARGV: run id, format.
local format = redis.call('HGET', root, 'format')
if format and format ~= ARGV[2] then return {'format', format} end
redis.call('HSET', root, 'format', ARGV[2])
if not opened() then
  -- Holders whose leases are not in its data any more may still be at work: nobody claims for the time of a lease.
  redis.call('HSET', root, 'boot', boot, 'settled', '0')
end
return {'ok'}
