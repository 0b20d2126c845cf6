-- The callback of an ended job is done with.
local job = read(JOB, {'state', 'ended'})
if not job or not ENDED[job.state] then return false end
look_before()
redis.call('HSET', JOB, 'callback_state', ARGV[7], 'callback_attempts', ARGV[8])
redis.call('ZREM', OPEN, ID)
live_for(math.max(1, math.min(math.ceil(job.ended + ONCE_ENDED - NOW), tonumber(ONCE_ENDED))))
return "ok"
