-- The run has brought the job to its end; an empty reply: not all files of a completed one have ended. Of a failed one, the files that did not end have failed with it.
local run, state, why, expires = unpack(ARGV, 7)
local job = fenced(run)
if not job then return false end
if state == 'failed' then
  job.failed = job.total - job.completed - job.cancelled
elseif done(job) < tonumber(job.total) then
  return ''
end
close(job, state, why, expires)
return snapshot(ID)
