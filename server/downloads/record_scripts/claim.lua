-- Begin a run. Files that the former one left running are told apart by its number, when they are read.
local job = read(JOB, {'released', 'deaths', unpack(COUNTED)})
if not job or ENDED[job.state] then return false end
look_before()
local deaths = tonumber(job.deaths)
if job.released == '0' then deaths = deaths + 1 end
job.partial = 0
redis.call('HSET', JOB, 'run', job.run + 1, 'owner', ARGV[7], 'released', 0, 'deaths', deaths, 'partial', 0)
if job.state == 'queued' then
  job.state = 'running'
  change(job, 'running', '', 'state', 'running', 'started', NOW)
end
sign_of_life()
live_for(WHILE_OPEN, job.state)
return {deaths, snapshot(ID)}
