-- Nobody wants the job any more.
local job = read(JOB, COUNTED)
if not job then return false end
if not ENDED[job.state] then close(job, 'cancelled', '', ARGV[7]) end
return snapshot(ID)
