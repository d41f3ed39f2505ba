-- Say to whom a stream will be handed over. ARGV: run id, incarnation, id, epoch, name of the agent.
if not opened() then return {'boot'} end
if not holds(ARGV[3], ARGV[2], ARGV[4]) then return {'lost'} end
redis.call('HSET', offers, ARGV[3], ARGV[5])
moved(ARGV[3])
return {'ok'}
