-- An attempt at the callback of an ended job has failed.
local job = read(JOB, {'state', 'callback', 'callback_state'})
if not job or not ENDED[job.state] or not owes(job) then return false end
look_before()
redis.call('HSET', JOB, 'callback_attempts', ARGV[7], 'callback_detail', ARGV[8])
sign_of_life()
live_for(WHILE_OPEN)
return "ok"
