-- The run is alive.
local job = fenced(ARGV[7])
if not job then return false end
look_before()
sign_of_life()
live_for(WHILE_OPEN, job.state)
return "ok"
