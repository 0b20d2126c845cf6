-- Jobs of an index in those states, newest first, after a place in it. Looks at `scan` entries at most, so a
-- page may be short; then, and when it is full, it tells the place of the last entry it looked at.
local client, states, limit, scan, score, member = unpack(ARGV, 7)
local index = client == '' and JOBS or jobs_of(client)
local from = 0
if member ~= '' then
  local rank = redis.call('ZREVRANK', index, member)
  from = rank and rank + 1 or redis.call('ZCOUNT', index, '(' .. score, '+inf')
end
local entries = redis.call('ZREVRANGE', index, from, from + scan, 'WITHSCORES')
local found, gone, looked = {}, {}, 0
while looked < math.min(#entries / 2, tonumber(scan)) and #found < tonumber(limit) do
  local id = entries[2 * looked + 1]
  local job = listed(id)
  if not job then
    gone[#gone + 1] = id
  elseif string.find(states, ' ' .. job.state .. ' ', 1, true) then
    found[#found + 1] = cjson.encode(job)
  end
  looked = looked + 1
end
if #gone > 0 then redis.call('ZREM', index, unpack(gone)) end
local more = looked < #entries / 2
return {'[' .. table.concat(found, ',') .. ']', more and entries[2 * looked] or '', more and entries[2 * looked - 1] or ''}
