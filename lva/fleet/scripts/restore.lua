-- Write again what an agent knows and the server has lost: the highest version wins.
-- What was removed while the agent was away stays so.
-- ARGV: run id, incarnation; then id, version, row, wanted, state, the highest epoch known, and 1 if the agent holds it, of each.
if not opened() then return {'boot'} end
local restored = 0
for i = 3, #ARGV, 7 do
  local id, version = ARGV[i], tonumber(ARGV[i + 1])
  local changes = false
  local known = redis.call('HEXISTS', streams, id) == 1
  local gone = not known and redis.call('ZSCORE', removed, id)
  if not gone and version > (tonumber(redis.call('HGET', versions, id)) or 0) then
    redis.call('HSET', streams, id, ARGV[i + 2])
    redis.call('HSET', versions, id, ARGV[i + 1])
    for key, value in pairs({[wanted] = ARGV[i + 3], [states] = ARGV[i + 4]}) do
      if value ~= '' then redis.call('HSET', key, id, value) end
    end
    restored, changes = restored + 1, true
  end
  if tonumber(ARGV[i + 5]) > (tonumber(redis.call('HGET', epochs, id)) or 0) then
    redis.call('HSET', epochs, id, ARGV[i + 5])
  end
  if ARGV[i + 6] == '1' and not gone and not holds(id, ARGV[2], ARGV[i + 5]) then
    local epoch = tonumber(string.match(redis.call('HGET', leases, id) or '', ' (%d+)$')) or 0
    if tonumber(ARGV[i + 5]) > epoch then
      redis.call('HSET', leases, id, ARGV[2] .. ' ' .. ARGV[i + 5])
      changes = true
    end
  end
  if changes then moved(id) end
end
return {'ok', restored}
