-- Jobs that owe something and gave no sign of life since a time; that they are told of counts as one, and
-- keeps them: a job may wait for its turn for longer than it is known without. A sign
-- that lies in the future is one of before the clock was put back: it counts as of now.
local before, limit = unpack(ARGV, 7)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', OPEN, '(' .. NOW, '+inf', 'LIMIT', 0, 1000)) do
  redis.call('ZADD', OPEN, NOW, id)
end
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', OPEN, '-inf', '(' .. before, 'LIMIT', 0, limit)) do
  local job = read(key('record', id), {'state', 'callback', 'callback_state'})
  if job and owes(job) then
    found[#found + 1] = id
    redis.call('ZADD', OPEN, NOW, id)
    live_for(WHILE_OPEN, job.state, id)
  else
    redis.call('ZREM', OPEN, id)
  end
end
return found
