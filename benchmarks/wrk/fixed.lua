-- One route, one timeout:
--    ROUTE=smart TIMEOUT=500 wrk -t1 -c200 -d10s --timeout 40s -s benchmarks/wrk/fixed.lua http://127.0.0.1:8000
-- wrk tells a script no request's own time, but its histogram is exact to the microsecond, so with one
-- timeout for all, the late answers (over TIMEOUT + MARGIN ms, 10 by default) are counted there at the end.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local counting = dofile(here .. "counting.lua")

local timeout = tonumber(os.getenv("TIMEOUT") or 500)
local margin = tonumber(os.getenv("MARGIN") or 10)

wrk.path = string.format("/api/%s?timeout=%d", os.getenv("ROUTE") or "smart", timeout)
setup = counting.setup

function response(status)
   counting.status(status)
end

function done(summary, latency)
   counting.report(summary, latency, function(histogram)
      local late_answers = 0
      for i = 1, #histogram do
         local microseconds, count = histogram(i)
         if microseconds > (timeout + margin) * 1000 then
            late_answers = late_answers + count
         end
      end
      return late_answers
   end)
end
