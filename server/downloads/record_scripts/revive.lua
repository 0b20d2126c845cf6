-- A failed or cancelled job begins a new life; of its files, those that are not completed.
local job = read(JOB, {'client', unpack(COUNTED)})
if not job then return false end
if job.state ~= 'failed' and job.state ~= 'cancelled' then return snapshot(ID) end
look_before()
redis.call('SCARD', open_of(job.client))
local rows = redis.call('HGETALL', FILES)
for i = 1, #rows, 2 do
  local state, attempts = string.match(rows[i + 1], '^%[%d+,"(%a+)",%d+,(%d+),')
  if state ~= 'completed' then
    redis.call('HSET', FILES, rows[i], string.format('[0,"queued",0,%s,null,null]', attempts))
  end
end
job.state, job.failed, job.cancelled, job.partial = 'queued', 0, 0, 0
change(job, 'queued', '', 'state', 'queued', 'started', '', 'ended', '', 'expires', '', 'error', '',
  'failed', 0, 'cancelled', 0, 'partial', 0, 'released', 1, 'deaths', 0,
  'callback_state', 'pending', 'callback_attempts', 0, 'callback_detail', '')
redis.call('SADD', open_of(job.client), ID)
redis.call('EXPIRE', open_of(job.client), 2 * WHILE_OPEN)
sign_of_life()
live_for(WHILE_OPEN, job.state)
return snapshot(ID)
