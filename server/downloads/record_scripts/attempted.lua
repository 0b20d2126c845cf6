-- An attempt at the callback of an ended job has failed.
local the_end, attempts, detail = unpack(ARGV, 7)
local job = told_of(the_end, attempts)
if not job or not owes(job) then return false end
look_before()
redis.call('HSET', JOB, 'callback_attempts', attempts, 'callback_detail', detail)
sign_of_life()
live_for(WHILE_OPEN, job.state)
return "ok"
