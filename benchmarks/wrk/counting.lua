-- What both scripts share: counting statuses in each of wrk's threads, and one JSON line at the end.
-- A thread has a Lua of its own, so it counts in its own globals; done() runs in yet another one and
-- fetches them. They are plain numbers, because wrk swaps keys and values of a table on the way.

local counting = {}
local threads = {}

statuses = ""  -- the ones seen in this thread, e.g. "200 500 "; the count of each is in status_200, status_500
late = 0

function counting.setup(thread)
   table.insert(threads, thread)
   thread:set("number", #threads)
end

function counting.status(status)
   local name = "status_" .. status
   local count = _G[name]
   if count == nil then
      statuses = statuses .. status .. " "
      count = 0
   end
   _G[name] = count + 1
end

local function total()
   local counts, late_answers = {}, 0
   for _, thread in ipairs(threads) do
      for status in thread:get("statuses"):gmatch("%d+") do
         counts[status] = (counts[status] or 0) + thread:get("status_" .. status)
      end
      late_answers = late_answers + thread:get("late")
   end
   return counts, late_answers
end

-- *late_in*, if given, counts late answers in wrk's histogram; otherwise the threads have counted them.
function counting.report(summary, latency, late_in)
   local counts, late_answers = total()
   local parts = {}
   for status, count in pairs(counts) do
      table.insert(parts, string.format('"%s": %d', status, count))
   end
   if late_in then
      late_answers = late_in(latency)
   end
   local errors = summary.errors
   io.write(string.format(
      '{"requests": %d, "seconds": %.6f, "statuses": {%s}, "late": %d, "p50": %.3f, "p95": %.3f, '
         .. '"p99": %.3f, "max": %.3f, "connect": %d, "read": %d, "write": %d, "timeout": %d}\n',
      summary.requests, summary.duration / 1e6, table.concat(parts, ", "), late_answers,
      latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3,
      latency.max / 1e3, errors.connect, errors.read, errors.write, errors.timeout))
end

return counting
