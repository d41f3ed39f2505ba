-- Take out an agent that has ended, if its beat is what it was when that was found. ARGV: run id, incarnation, name, beat or ''.
if not opened() then return {'boot'} end
if ARGV[4] ~= '' and redis.call('HGET', beats, ARGV[2]) ~= ARGV[4] then return {'alive'} end
redis.call('HDEL', beats, ARGV[2])
local row = redis.call('HGET', agents, ARGV[3])
if row and string.match(row, '^(%S+) ') == ARGV[2] then
  redis.call('HDEL', agents, ARGV[3])
  raise(root, 'agents')
end
return {'ok'}
