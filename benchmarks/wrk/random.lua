-- One route, a timeout drawn for each request:
--    ROUTE=smart TIMEOUT_MIN=500 TIMEOUT_MAX=1000 wrk -t1 -c200 -d10s --timeout 40s \
--       -s benchmarks/wrk/random.lua http://127.0.0.1:8000
-- Which answer belongs to which timeout, wrk does not say. But the server echoes X-Request-Id, so that
-- carries the timeout and the time of sending there and back, and each answer is judged as it comes.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local counting = dofile(here .. "counting.lua")
local ffi = require("ffi")
ffi.cdef [[
   typedef struct { long seconds; long nanoseconds; } hedgerow_time;
   int clock_gettime(int clock, hedgerow_time *now);
]]

local route = os.getenv("ROUTE") or "smart"
local shortest = tonumber(os.getenv("TIMEOUT_MIN") or 500)
local longest = tonumber(os.getenv("TIMEOUT_MAX") or 1000)
local margin = tonumber(os.getenv("MARGIN") or 10)
local MONOTONIC = 1
local time = ffi.new("hedgerow_time")

local function microseconds()
   ffi.C.clock_gettime(MONOTONIC, time)
   return tonumber(time.seconds) * 1e6 + math.floor(tonumber(time.nanoseconds) / 1e3)
end

setup = counting.setup

function init()
   math.randomseed(number)  -- each thread its own sequence, the same in every run
end

function request()
   local timeout = math.random(shortest, longest)
   local id = string.format("%d-%.0f", timeout, microseconds())
   local path = string.format("/api/%s?timeout=%d", route, timeout)
   return wrk.format("GET", path, {["Host"] = wrk.headers["Host"], ["X-Request-Id"] = id})
end

function response(status, headers)
   local now = microseconds()
   counting.status(status)
   local timeout, sent = (headers["X-Request-Id"] or ""):match("^(%d+)-(%d+)$")
   if timeout == nil then
      counting.status(0)  -- an answer to nobody's question: shows up as an error
   elseif now - tonumber(sent) > (tonumber(timeout) + margin) * 1000 then
      late = late + 1
   end
end

function done(summary, latency)
   counting.report(summary, latency)
end
