-- One file went on; an empty reply: the job has no such file. A row is [run, state, percent, attempts, size,
-- error]; a file that was never begun has none.
local run, file_id, state, percent_now, attempts, size, why = unpack(ARGV, 7)
local job = fenced(run)
if not job then return false end
local former = redis.call('HGET', FILES, file_id)
if not former then
  local all = ',' .. redis.call('HGET', JOB, 'file_ids') .. ','
  if not string.find(all, ',' .. file_id .. ',', 1, true) then return '' end
end
local former_run, former_state, former_percent = string.match(former or '', '^%[(%d+),"(%a+)",(%d+),')
if ENDED[former_state] then return job.last_event end

local before = (former_state == 'running' and former_run == run) and tonumber(former_percent) or 0
local percent_of_file = math.max(before, tonumber(percent_now))
local row = string.format('[%s,"%s",%d,%s,%s,%s]', run, state, percent_of_file, attempts, size, why)
if row == former then return job.last_event end

look_before()
redis.call('HSET', FILES, file_id, row)
sign_of_life()
local kind = 'progress'
if ENDED[state] then
  kind = 'file'
  job[state] = job[state] + 1
  job.partial = job.partial - before
else
  job.partial = job.partial + percent_of_file - before
end
local file = string.format(',"file":{"fileId":%s,"status":"%s","progress":%d,"size":%s,"error":%s}',
  file_id, state, percent_of_file, size, why)
local event = change(job, kind, file,
  'partial', job.partial, 'completed', job.completed, 'failed', job.failed, 'cancelled', job.cancelled)
live_for(WHILE_OPEN, job.state)
return event
