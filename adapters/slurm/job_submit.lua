-- A whole job_submit.lua for a site that has none. One that has its own adds the four lines from `local loaded` at its top, and as
-- the first line of its slurm_job_submit, before any return, the one that calls `predict`. A gridcast.lua that is missing or broken
-- switches the predictions off, says so in slurmctld's log, and changes nothing else.

local loaded, predict = pcall(function()
    return dofile("/etc/slurm/gridcast.lua").adapter({ table = "/var/lib/gridcast/predictions.tsv" })
end)
if not loaded then slurm.log_error("gridcast: no predictions: %s", tostring(predict)) end

function slurm_job_submit(job_desc, part_list, submit_uid)
    if loaded then predict(job_desc, part_list) end
    return slurm.SUCCESS
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
    return slurm.SUCCESS
end

return slurm.SUCCESS
