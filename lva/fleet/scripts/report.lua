-- Write the states of streams. ARGV: run id, incarnation; then id, epoch, state and an entry of the log ('' for none) of each.
if not opened() then return {'boot'} end
local lost = {}
for i = 3, #ARGV, 4 do
  if holds(ARGV[i], ARGV[2], ARGV[i + 1]) then
    -- A stop that was told too late: its users have resumed the stream since.
    local resumed = string.find(ARGV[i + 2], '"status":"stop"', 1, true) and redis.call('HEXISTS', wanted, ARGV[i]) == 0
    if not resumed then redis.call('HSET', states, ARGV[i], ARGV[i + 2]) end
    log(ARGV[i], ARGV[i + 3])
    moved(ARGV[i])
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return {'ok', lost}
