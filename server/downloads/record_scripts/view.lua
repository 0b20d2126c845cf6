-- The job as it stands.
return snapshot(ID)
