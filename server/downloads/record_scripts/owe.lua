-- The callback of an ended job is owed once more: the same message, as no event is added, with all its attempts.
local job = read(JOB, {'state', 'callback'})
if not job then return false end
if ENDED[job.state] and job.callback ~= '' then
  look_before()
  redis.call('HSET', JOB, 'callback_state', 'pending', 'callback_attempts', 0, 'callback_detail', '')
  sign_of_life()
  live_for(WHILE_OPEN, job.state)
end
return snapshot(ID)
