-- The run ends without the job's end, and says so: its successor will not take it for dead.
if not fenced(ARGV[7]) then return false end
look_before()
redis.call('HSET', JOB, 'released', 1)
sign_of_life()
return "ok"
