-- What happened after an event: whether that is all, then id, kind and data of each, a line each.
-- It is all if the event itself is still there; before the first one stands 0-0.
local after, count = unpack(ARGV, 7)
local witness = after
if after == '0-0' then witness = redis.call('HGET', JOB, 'first_event') end
local complete = witness and #redis.call('XRANGE', EVENTS, witness, witness) == 1
local lines = {complete and 'complete' or 'cut'}
if after ~= '18446744073709551615-18446744073709551615' then
  for _, entry in ipairs(redis.call('XRANGE', EVENTS, '(' .. after, '+', 'COUNT', count)) do
    lines[#lines + 1] = entry[1]
    lines[#lines + 1] = entry[2][2]
    lines[#lines + 1] = entry[2][4]
  end
end
return table.concat(lines, '\n')
