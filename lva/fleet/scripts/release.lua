-- Give up streams: their workers have ended. ARGV: run id, incarnation; then id and epoch of each.
if not opened() then return {'boot'} end
local lost = {}
for i = 3, #ARGV, 2 do
  local id = ARGV[i]
  -- A lease that is gone was deleted by another program, and nobody knows yet that the stream is free.
  local is_gone = redis.call('HEXISTS', leases, id) == 0 and redis.call('HEXISTS', streams, id) == 1
  if is_gone or holds(id, ARGV[2], ARGV[i + 1]) then
    redis.call('HDEL', leases, id)
    moved(id)
  else
    lost[#lost + 1] = id
  end
end
return {'ok', lost}
