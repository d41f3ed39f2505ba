-- Write the states of streams. ARGV: run id, incarnation; then id, epoch, version of the definition, 1 if nobody is to work on it any
-- more, state and an entry of the log ('' for none) of each.
if not opened() then return {'boot'} end

-- Whether a state is of a definition, or its end of a run, that users have replaced by another one since.
local function is_old(id, epoch, version, over)
  local now = tonumber(redis.call('HGET', versions, id)) or 0
  if now > tonumber(version) and now < HIGH then return true end
  return over == '1' and (tonumber(redis.call('HGET', resumed, id)) or 0) >= tonumber(epoch)
end

local lost = {}
for i = 3, #ARGV, 6 do
  local id, epoch, version, over, state, entry = unpack(ARGV, i, i + 5)
  if holds(id, ARGV[2], epoch) then
    if not is_old(id, epoch, version, over) then redis.call('HSET', states, id, state) end
    log(id, entry)
    moved(id)
  else
    lost[#lost + 1] = id
  end
end
return {'ok', lost}
