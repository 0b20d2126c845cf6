-- The run is alive.
if not fenced(ARGV[7]) then return false end
look_before()
sign_of_life()
live_for(WHILE_OPEN)
return "ok"
