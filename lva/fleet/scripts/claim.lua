-- Take streams. ARGV: run id, incarnation; then id, the lease that is there ('' for none), and the last beat of its holder ('' for
-- none), and the highest epoch known, of each. The reply has for each its epoch, or why it was not taken.
if not opened() then return {'boot'} end
if redis.call('HGET', root, 'settled') ~= '1' then return {'unsettled'} end
if redis.call('HEXISTS', beats, ARGV[2]) == 0 then return {'replaced'} end

local function claim(id, expected, beat, known)
  if redis.call('HEXISTS', streams, id) == 0 then return 'gone' end
  local lease = redis.call('HGET', leases, id) or ''
  local own_is_gone = lease == '' and holder_of(expected) == ARGV[2]
  if lease ~= expected and not own_is_gone then return 'taken' end
  local holder = holder_of(lease)
  if holder and holder ~= ARGV[2] and (redis.call('HGET', beats, holder) or '') ~= beat then return 'taken' end
  local before = redis.call('HGET', epochs, id) or '0'
  if before ~= '0' and not (string.match(before, '^[1-9]%d*$') and #before < 16) then
    return 'broken ' .. epochs .. ' has ' .. string.sub(before, 1, 40) .. ', which is no epoch'
  end
  if before == '999999999999999' then
    return 'broken ' .. epochs .. ' has ' .. before .. ', the highest epoch that there is'
  end
  -- What another program has deleted is known to agents: no epoch comes twice.
  if #known < 15 and tonumber(known) > tonumber(before) then redis.call('HSET', epochs, id, known) end
  -- Lua writes a number of more than 14 digits in another way.
  local epoch = string.format('%d', redis.call('HINCRBY', epochs, id, 1))
  redis.call('HSET', leases, id, ARGV[2] .. ' ' .. epoch)
  redis.call('HDEL', offers, id)
  moved(id)
  return epoch
end

local reply = {'ok'}
for i = 3, #ARGV, 4 do reply[#reply + 1] = claim(unpack(ARGV, i, i + 3)) end
return reply
