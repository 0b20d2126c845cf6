-- Make a job, unless its Idempotency-Key made one before. Replies: what became of it, and the job.
local client, idempotency, fingerprint, most_open, file_ids, total, callback, request_id, traceparent =
  unpack(ARGV, 7)

local function known(id)
  return redis.call('EXISTS', key('record', id)) == 1
end

-- The oldest entries whose records have expired; more go than come.
local function trim(index)
  for _, id in ipairs(redis.call('ZRANGE', index, 0, 7)) do
    if not known(id) then redis.call('ZREM', index, id) end
  end
end

local KEY = key('idempotency', client, idempotency)
local former = idempotency ~= '' and redis.call('GET', KEY)
if former and known(string.sub(former, 1, 36)) then
  if string.sub(former, 38) ~= fingerprint then return {'reused'} end
  return {'made', snapshot(string.sub(former, 1, 36))}
end
if known(ID) then return {'made', snapshot(ID)} end

local OPEN_OF, JOBS_OF = open_of(client), jobs_of(client)
look_before()
redis.call('ZCARD', JOBS)
redis.call('ZCARD', JOBS_OF)
if redis.call('SCARD', OPEN_OF) >= tonumber(most_open) then
  for _, id in ipairs(redis.call('SMEMBERS', OPEN_OF)) do
    if not known(id) then redis.call('SREM', OPEN_OF, id) end
  end
  if redis.call('SCARD', OPEN_OF) >= tonumber(most_open) then return {'full'} end
end

local job = {state = 'queued', total = total, completed = 0, failed = 0, cancelled = 0, partial = 0}
redis.call('HSET', JOB, 'client', client, 'state', 'queued', 'created', NOW, 'started', '', 'ended', '',
  'expires', '', 'run', 0, 'owner', '', 'released', 1, 'deaths', 0, 'error', '', 'request_id', request_id,
  'traceparent', traceparent,
  'file_ids', file_ids, 'total', total, 'completed', 0, 'failed', 0, 'cancelled', 0, 'partial', 0,
  'callback', callback, 'callback_state', 'pending', 'callback_attempts', 0, 'callback_detail', '')
redis.call('HSET', JOB, 'first_event', change(job, 'queued', ''))
redis.call('SADD', OPEN_OF, ID)
redis.call('ZADD', JOBS_OF, NOW, ID)
redis.call('ZADD', JOBS, NOW, ID)
sign_of_life()
live_for(WHILE_OPEN, job.state)
for _, index in ipairs({OPEN_OF, JOBS_OF}) do redis.call('EXPIRE', index, 2 * WHILE_OPEN) end
if idempotency ~= '' then redis.call('SET', KEY, ID .. ' ' .. fingerprint, 'EX', WHILE_OPEN) end
trim(JOBS)
trim(JOBS_OF)
return {'made', snapshot(ID)}
