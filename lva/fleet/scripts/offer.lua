-- Say to whom streams will be handed over. ARGV: run id, incarnation; then id, epoch and name of the agent of each.
if not opened() then return {'boot'} end
local lost = {}
for i = 3, #ARGV, 3 do
  if holds(ARGV[i], ARGV[2], ARGV[i + 1]) then
    redis.call('HSET', offers, ARGV[i], ARGV[i + 2])
    moved(ARGV[i])
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return {'ok', lost}
