-- The callback of an ended job is done with.
local the_end, outcome, attempts = unpack(ARGV, 7)
local job = told_of(the_end, attempts)
if not job then return false end
look_before()
redis.call('HSET', JOB, 'callback_state', outcome, 'callback_attempts', attempts)
redis.call('ZREM', OPEN, ID)
live_for(math.max(1, math.min(math.ceil(job.ended + ONCE_ENDED - NOW), tonumber(ONCE_ENDED))), job.state)
return "ok"
