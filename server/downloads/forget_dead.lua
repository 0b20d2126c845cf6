-- Forgets the consumers of the stream KEYS[1] that have nothing under way and were silent for ARGV[1]
-- milliseconds; replies how many. A script, because what a consumer gets between two commands would be gone
-- with it.

local function named(reply)
  local fields = {}
  for i = 1, #reply, 2 do fields[reply[i]] = reply[i + 1] end
  return fields
end

local gone = 0
if redis.call('EXISTS', KEYS[1]) == 0 then return gone end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = named(group).name
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group)) do
    local consumer = named(consumer)
    if consumer.pending == 0 and consumer.idle >= tonumber(ARGV[1]) then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group, consumer.name)
      gone = gone + 1
    end
  end
end
return gone
