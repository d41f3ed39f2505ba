-- Free the streams of an agent that is dead, for all at once: who asks has seen the same beat for the time of a lease.
-- ARGV: run id, incarnation, its last beat ('' for none); then id and epoch of each lease.
if not opened() then return {'boot'} end
if redis.call('HGET', root, 'settled') ~= '1' then return {'unsettled'} end
if (redis.call('HGET', beats, ARGV[2]) or '') ~= ARGV[3] then return {'alive'} end
local freed = {}
for i = 4, #ARGV, 2 do
  local is_gone = redis.call('HEXISTS', leases, ARGV[i]) == 0 and redis.call('HEXISTS', streams, ARGV[i]) == 1
  if is_gone or holds(ARGV[i], ARGV[2], ARGV[i + 1]) then
    redis.call('HDEL', leases, ARGV[i])
    moved(ARGV[i])
    freed[#freed + 1] = ARGV[i]
  end
end
return {'ok', freed}
