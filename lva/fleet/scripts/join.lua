-- Enter an agent. ARGV: run id, incarnation, name, row; the incarnation of that name that is known to be dead, and its last beat.
if not opened() then return {'boot'} end
local row = redis.call('HGET', agents, ARGV[3])
local other = row and string.match(row, '^(%S+) ')
if other and other ~= ARGV[2] then
  local beat = redis.call('HGET', beats, other) or ''
  if other ~= ARGV[5] or beat ~= ARGV[6] then return {'taken', other, beat} end
  redis.call('HDEL', beats, other)
end
redis.call('HSET', agents, ARGV[3], ARGV[2] .. ' ' .. ARGV[4])
raise(root, 'agents')
raise(beats, ARGV[2])
return {'ok'}
