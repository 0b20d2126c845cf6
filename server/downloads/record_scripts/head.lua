-- What every script begins with; its own arguments come after these.
-- A script reads each kind of key before it writes the first one: a key of a wrong type, or a store that is
-- full, stops it with nothing done. Times come in as arguments, and only expiry is reckoned from them.
local PREFIX, ID, NOW, AT, WHILE_OPEN, ONCE_ENDED = unpack(ARGV, 1, 6)
local HISTORY = 3600
local ENDED = {completed = true, failed = true, cancelled = true}
local COUNTED = {'state', 'run', 'total', 'completed', 'failed', 'cancelled', 'partial', 'last_event'}
local LISTED = {'client', 'state', 'created', 'started', 'ended', 'expires', 'error', 'last_event', 'request_id',
  'total', 'completed', 'failed', 'cancelled', 'partial', 'run', 'callback', 'callback_state',
  'callback_attempts', 'callback_detail', 'traceparent'}

local function key(...)
  return table.concat({PREFIX, ...}, ':')
end

local JOB, FILES, EVENTS = key('record', ID), key('record', ID, 'files'), key('record', ID, 'events')
local OPEN, JOBS = key('open'), key('jobs')

local function open_of(client) return key('client', client, 'open') end
local function jobs_of(client) return key('client', client, 'jobs') end

-- Those fields of a job by their names; nil if there is no such job.
local function read(job_key, names)
  local values = redis.call('HMGET', job_key, unpack(names))
  local job = {}
  for i, name in ipairs(names) do job[name] = values[i] end
  if job.state then return job end
end

-- The job, if that run may write to it.
local function fenced(run)
  local job = read(JOB, COUNTED)
  if job and job.state == 'running' and job.run == run then return job end
end

-- Fails on a key of a wrong type.
local function look_before()
  redis.call('HLEN', FILES)
  redis.call('XLEN', EVENTS)
  redis.call('ZCARD', OPEN)
end

-- How long a job in that state is known. Its events go an hour after its end: they are most of it, and who
-- comes later for what was missed gets the status instead.
local function live_for(seconds, state, id)
  local record = key('record', id or ID)
  redis.call('EXPIRE', record, seconds)
  redis.call('EXPIRE', record .. ':files', seconds)
  redis.call('EXPIRE', record .. ':events', ENDED[state] and math.min(seconds, HISTORY) or seconds)
end

local function sign_of_life()
  redis.call('ZADD', OPEN, NOW, ID)
end

local function owes(job)
  return not ENDED[job.state] or (job.callback ~= '' and job.callback_state == 'pending')
end

-- The job, if its latest event is that end, and its callback has been tried so often or once less: what was
-- begun before the job, or only its callback, was taken up anew is no news of it.
local function told_of(the_end, attempts)
  local job = read(JOB, {'state', 'ended', 'callback', 'callback_state', 'callback_attempts', 'last_event'})
  if job and ENDED[job.state] and job.last_event == the_end and attempts - job.callback_attempts <= 1 then
    return job
  end
end

local function done(job)
  return job.completed + job.failed + job.cancelled
end

local function percent(job)
  if ENDED[job.state] then return 100 end
  return math.floor((done(job) * 100 + job.partial) / job.total)
end

-- Write the fields that follow, and tell everybody: the stream keeps all `file` events of a job and some 15
-- others of each of its files. Returns the event's id.
local function change(job, kind, more, ...)
  local data = string.format(
    '{"jobId":"%s","status":"%s","totalFileIds":%d,"progress":%d,"completedFiles":%d,"failedFiles":%d,"at":"%s"%s}',
    ID, job.state, job.total, percent(job), job.completed, job.failed, AT, more)
  local event = redis.call('XADD', EVENTS, 'MAXLEN', '~', 200 + 16 * job.total, '*', 'kind', kind, 'data', data)
  redis.call('HSET', JOB, 'last_event', event, ...)
  redis.call('PUBLISH', key('events', ID), event .. '\n' .. kind .. '\n' .. data)
  return event
end

-- The end of a job's life.
local function close(job, state, why, expires)
  local rest = read(JOB, {'state', 'client', 'callback', 'callback_state'})
  look_before()
  redis.call('SCARD', open_of(rest.client))
  job.state, rest.state = state, state
  change(job, state, ',"error":' .. (why == '' and 'null' or cjson.encode(why)),
    'state', state, 'ended', NOW, 'expires', expires, 'error', why, 'failed', job.failed)
  redis.call('SREM', open_of(rest.client), ID)
  if owes(rest) then
    sign_of_life()
    live_for(WHILE_OPEN, state)
  else
    redis.call('ZREM', OPEN, ID)
    live_for(ONCE_ENDED, state)
  end
end

-- A job without its files; nil if there is none of that id. A completed one is expired in the end.
local function listed(id)
  local job = read(key('record', id), LISTED)
  if not job then return nil end
  if job.state == 'completed' and tonumber(job.expires) <= tonumber(NOW) then job.state = 'expired' end
  job.id = id
  return job
end

-- A job with its files, as JSON: one long reply costs the reader far less than many short ones.
local function snapshot(id)
  local job = listed(id)
  if not job then return false end
  local rows, parts = redis.call('HGETALL', key('record', id, 'files')), {}
  for i = 1, #rows, 2 do parts[#parts + 1] = '"' .. rows[i] .. '":' .. rows[i + 1] end
  local order = redis.call('HGET', key('record', id), 'file_ids')
  return '{"job":' .. cjson.encode(job) .. ',"order":[' .. order .. '],"files":{' .. table.concat(parts, ',') .. '}}'
end

