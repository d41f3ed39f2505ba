-- Renew all leases of an agent, and return what it needs to know.
-- ARGV: run id, incarnation, name, row ('' if it is as before), the last revision it has seen, most rows, the revision of agents it has seen;
-- then id and epoch of each lease.
if not opened() then return {'boot'} end
local row = redis.call('HGET', agents, ARGV[3])
if not row or string.match(row, '^(%S+) ') ~= ARGV[2] then return {'replaced'} end
if ARGV[4] ~= '' then
  redis.call('HSET', agents, ARGV[3], ARGV[2] .. ' ' .. ARGV[4])
  raise(root, 'agents')
end
raise(beats, ARGV[2])

-- Of many fields at once: a command for each would take three times as long.
local PAGE = 1000
local lost = {}
for from = 8, #ARGV, 2 * PAGE do
  local ids = {}
  for i = from, math.min(from + 2 * PAGE - 2, #ARGV), 2 do ids[#ids + 1] = ARGV[i] end
  for n, lease in ipairs(redis.call('HMGET', leases, unpack(ids))) do
    if lease ~= ARGV[2] .. ' ' .. ARGV[from + 2 * n - 1] then lost[#lost + 1] = ids[n] end
  end
end

-- From here on nothing may keep a lease from being renewed, whatever another program has written.
local trouble = ''
local function get(key, ids)
  local values = redis.pcall('HMGET', key, unpack(ids))
  if values.err then
    trouble = key .. ': ' .. values.err
    return {}
  end
  return values
end
local since = tonumber(ARGV[5])
local newest = tonumber(redis.call('HGET', root, 'revision')) or 0
local last = highest(MOST)
if not (newest <= MOST) then
  newest = renumber()
elseif last > newest then
  newest = last
  redis.call('HSET', root, 'revision', string.format('%d', newest))
end
local trimmed = tonumber(redis.call('HGET', root, 'trimmed')) or 0
local again = (since < trimmed and trimmed <= newest) or since > newest
if again then since = 0 end
local rows = {}
local found = redis.pcall('ZRANGEBYSCORE', changed, string.format('(%d', since), string.format('%d', newest), 'WITHSCORES', 'LIMIT', 0, ARGV[6])
if found.err then
  trouble = changed .. ': ' .. found.err
elseif #found > 0 then
  local ids = {}
  for i = 1, #found, 2 do
    ids[#ids + 1] = found[i]
    rows[#rows + 1] = {found[i], found[i + 1]}
  end
  for n, key in ipairs({streams, wanted, states, leases, epochs, offers}) do
    local values = get(key, ids)
    for i, row in ipairs(rows) do row[n + 2] = values[i] or '' end
  end
  if trouble ~= '' then rows = {} end
end
local agents_revision = redis.call('HGET', root, 'agents')
local all = {}
if agents_revision ~= ARGV[7] then all = redis.call('HGETALL', agents) end
return {'ok', again and 1 or 0, lost, rows, redis.call('HGETALL', beats), agents_revision, all,
  redis.call('HGET', root, 'settled'), redis.call('HGET', root, 'drain ' .. ARGV[3]) or '', trouble}
