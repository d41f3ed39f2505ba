-- Say what is to become of a stream. ARGV: run id, id, 'run', 'stop' or 'remove'; the state and an entry of the log if nobody holds it;
-- the epoch of the run whose end its user knows of.
if not opened() then return {'boot'} end
if redis.call('HEXISTS', streams, ARGV[2]) == 0 then return {'gone'} end
if ARGV[3] == 'run' then
  redis.call('HDEL', wanted, ARGV[2])
  redis.call('HDEL', states, ARGV[2])
  redis.call('HSET', resumed, ARGV[2], ARGV[6]) -- that end may be reported later still
else
  redis.call('HSET', wanted, ARGV[2], ARGV[3])
  if redis.call('HEXISTS', leases, ARGV[2]) == 0 then
    redis.call('HSET', states, ARGV[2], ARGV[4])
    log(ARGV[2], ARGV[5])
  end
end
moved(ARGV[2])
return {'ok'}
