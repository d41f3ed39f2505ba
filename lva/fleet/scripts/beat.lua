-- Renew all leases of an agent, and return what it needs to know.
-- ARGV: run id, incarnation, name, row ('' if it is as before), the last revision it has seen, most rows, the revision of agents it has seen;
-- then id and epoch of each lease.
if not opened() then return {'boot'} end
local row = redis.call('HGET', agents, ARGV[3])
if not row or string.match(row, '^(%S+) ') ~= ARGV[2] then return {'replaced'} end
if ARGV[4] ~= '' then
  redis.call('HSET', agents, ARGV[3], ARGV[2] .. ' ' .. ARGV[4])
  redis.call('HINCRBY', root, 'agents', 1)
end
redis.call('HINCRBY', beats, ARGV[2], 1)

local lost = {}
for i = 8, #ARGV, 2 do
  if not holds(ARGV[i], ARGV[2], ARGV[i + 1]) then lost[#lost + 1] = ARGV[i] end
end

-- From here on nothing may keep a lease from being renewed, whatever another program has written.
local trouble = ''
local function get(key, id)
  local value = redis.pcall('HGET', key, id)
  if type(value) == 'table' then
    trouble = key .. ': ' .. value.err
    return ''
  end
  return value or ''
end
local since = tonumber(ARGV[5])
local again = since < (tonumber(redis.call('HGET', root, 'trimmed')) or 0)
  or since > (tonumber(redis.call('HGET', root, 'revision')) or 0)
if again then since = 0 end
local rows = {}
local found = redis.pcall('ZRANGEBYSCORE', changed, '(' .. since, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[6])
if found.err then
  trouble = changed .. ': ' .. found.err
else
  for i = 1, #found, 2 do
    local id = found[i]
    rows[#rows + 1] = {id, found[i + 1], get(streams, id), get(wanted, id), get(states, id), get(leases, id),
      get(epochs, id), get(offers, id)}
  end
end
local agents_revision = redis.call('HGET', root, 'agents')
local all = {}
if agents_revision ~= ARGV[7] then all = redis.call('HGETALL', agents) end
return {'ok', again and 1 or 0, lost, rows, redis.call('HGETALL', beats), agents_revision, all,
  redis.call('HGET', root, 'settled'), redis.call('HGET', root, 'drain ' .. ARGV[3]) or '', trouble}
