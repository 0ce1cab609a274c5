-- Gridcast's predictions for Slurm's job_submit plugin: reads the local table that `gridcast table --every 60` keeps.
--
-- slurmctld calls the plugin under its lock, one submission at a time. So nothing here asks over a network, waits, or reads more than
-- some kilobytes: a row is found by bisection of the sorted file, however long that is. Nothing here rejects a job or fails: whatever
-- goes wrong is named in the comment, and the job goes on as it came.
--
--   local loaded, predict = pcall(function()
--       return dofile("/etc/slurm/gridcast.lua").adapter({ table = "/var/lib/gridcast/predictions.tsv" })
--   end)
--   function slurm_job_submit(job_desc, part_list, submit_uid)
--       if loaded then predict(job_desc, part_list) end
--       return slurm.SUCCESS
--   end
--
-- The table should lie on a local disk: a network file system that hangs would hang the controller.

local gridcast = {}

local defaults = {
    table = "/var/lib/gridcast/predictions.tsv",
    stale_after = 900, -- seconds after which a table is called stale
    forgotten_after = 86400, -- and after which its numbers are no longer told
    opt_out_users = {}, -- as { "alice" }
    opt_out_programs = {}, -- names of jobs
    opt_out_word = "gridcast:off", -- in a job's own comment
    set_time_limit = false, -- a limit for jobs that gave none: the site must want it
    time_limit_margin = 1.25, -- of what one job in a hundred exceeds, or of the longest that ran lately where that is more
    least_time_limit = 10, -- minutes
    least_jobs = 5, -- as many such jobs must have been seen for a limit
    mode = nil, -- off, observe, suggest or act, where it shall be another one than the table's
    jobs_requeue = true, -- false where slurm.conf has JobRequeue=0: jobs that do not say --requeue cannot run again
    most_memory = nil, -- MiB of a node up to which memory may be written above the job's request, where the table allows that at all
}

local INFINITE, NO_VAL16 = 4294967295, 65534

local function escape(text)
    return (tostring(text):gsub("[%z\1-\32%%|\127]", function(c) return string.format("%%%02X", c:byte()) end))
end

local function known(value, none)
    if value == nil or value == "" or value == slurm.NO_VAL or value == none then return nil end
    return value
end

local function key(level, ...)
    local parts = { level }
    for place = 1, select("#", ...) do
        local value = select(place, ...)
        parts[place + 1] = value == nil and "-" or escape(value)
    end
    return table.concat(parts, "|")
end

-- Whether one text stands before another byte by byte: Lua's own < follows the locale.
local function before(left, right)
    for place = 1, math.min(#left, #right) do
        local l, r = left:byte(place), right:byte(place)
        if l ~= r then return l < r end
    end
    return #left < #right
end

local function split(line)
    local cells = {}
    for cell in (line .. "\t"):gmatch("([^\t]*)\t") do cells[#cells + 1] = cell end
    return cells
end

-- The line of a sorted file that begins with a key, nil where there is none; lines are looked at in [from, to).
local function find(file, wanted, from, to)
    local low, high = from, to
    while low < high do
        local middle = math.floor((low + high) / 2)
        file:seek("set", middle > from and middle - 1 or from)
        if middle > from then file:read("*l") end -- the rest of the line that the middle fell into
        local line = file:read("*l")
        if line and before(line:match("^[^\t]*"), wanted) then low = middle + 1 else high = middle end
    end
    file:seek("set", low > from and low - 1 or from)
    if low > from then file:read("*l") end
    local line = file:read("*l")
    if line and line:sub(1, #wanted + 1) == wanted .. "\t" then return line end
    return nil
end

-- The rules by which requests are written, from the table's first line (services/request_policy.py); off where any of them is missing.
function gridcast.parse_policy(cells)
    local policy, texts = {}, {}
    for place = 6, #cells do
        local name, text = cells[place]:match("^([^=]*)=(.*)$")
        if name then texts[name] = text end
    end
    for _, name in ipairs({ "users", "programs", "queues" }) do
        if not texts[name] then return { mode = "off" } end
        policy[name] = {}
        for item in texts[name]:gmatch("[^,]+") do table.insert(policy[name], item) end
    end
    for _, name in ipairs({ "least_jobs", "least_memory", "least_walltime", "above_request" }) do
        policy[name] = tonumber(texts[name] or "")
        if not policy[name] then return { mode = "off" } end
    end
    policy.mode = texts.mode or "off"
    return policy
end

-- The numbers of the first of the keys that the table has, by column, and what is known of the table; or nil and why.
function gridcast.look_up(path, keys)
    local file = io.open(path, "rb")
    if not file then return nil, "no table" end
    local first, columns = file:read("*l"), file:read("*l")
    local stamp = split(first or "")
    local about = { written_at = tonumber(stamp[2] or ""), version = stamp[4], policy = gridcast.parse_policy(stamp) }
    if (stamp[1] ~= "gridcast-table 1" and stamp[1] ~= "gridcast-table 2") or not columns or not about.written_at then
        file:close()
        return nil, "unreadable table"
    end
    local from, to = #first + #columns + 2, file:seek("end")
    for _, wanted in ipairs(keys) do
        local line = find(file, wanted, from, to)
        if line then
            file:close()
            local found, cells = { level = wanted:match("^[^|]*") }, split(line)
            for place, name in ipairs(split(columns)) do found[name] = tonumber(cells[place]) end
            return found, about
        end
    end
    file:close()
    return nil, "nothing known of such jobs", about
end

local function partition_of(job_desc, part_list)
    local named = known(job_desc.partition)
    if named then return named end
    for name, part in pairs(part_list or {}) do
        if part.flag_default == 1 then return name end
    end
    return nil
end

-- The GPUs in a request such as "gres/gpu:a100:2,gres/lustre:1", "gres:gpu:2" or "gpu:2", nil where there are none.
local function gpus_in(request)
    local total = nil
    for item in (known(request) or ""):gmatch("[^,]+") do
        local rest = item:match("^gres[:/]gpu(.*)$") or item:match("^gpu(.*)$")
        if rest == "" or (rest and rest:match("^[:=]")) then
            total = (total or 0) + (tonumber(rest:match("[:=](%d+)$")) or 1)
        end
    end
    return total
end

-- The GPUs of the whole job, however they were asked for.
local function gpus_of(job_desc, tasks)
    local of_node, of_task = gpus_in(job_desc.tres_per_node or job_desc.gres), gpus_in(job_desc.tres_per_task)
    return gpus_in(job_desc.tres_per_job)
        or (of_node and of_node * (known(job_desc.min_nodes) or 1))
        or (of_task and of_task * tasks)
end

local function keys_of(job_desc, part_list, user)
    local name, account = known(job_desc.name), known(job_desc.account) or known(job_desc.default_account)
    local queue = partition_of(job_desc, part_list)
    local minutes = known(job_desc.time_limit)
    local part = queue and part_list and part_list[queue]
    -- What the job's record will say it asked for: the partition's default, else its limit.
    local recorded = minutes or (part and (known(part.default_time) or known(part.max_time)))
    if recorded == INFINITE then recorded = nil end
    local tasks, each = known(job_desc.num_tasks) or 1, known(job_desc.cpus_per_task, NO_VAL16) or 1
    local cores = math.max(known(job_desc.min_cpus) or 1, tasks * each)
    local whole = function(number) return number and string.format("%d", number) end
    local gpus = gpus_of(job_desc, tasks)
    local of_job = key("job", user, name, account, queue, whole(recorded), whole(cores))
    return {
        gpus and gpus > 0 and of_job .. "|" .. whole(gpus) or of_job,
        key("program", user, name),
        key("user", user),
        key("any", name),
        key("all"),
    }, minutes
end

local function among(list, value)
    for _, one in ipairs(list) do
        if one == value then return true end
    end
    return false
end

-- Whether every list that is given names the job, and one is given.
local function covers(policy, job)
    local any = false
    for list, name in pairs({ users = "user", programs = "program", queues = "queue" }) do
        if #policy[list] > 0 then
            any = true
            if not among(policy[list], "*") and not among(policy[list], job[name]) then return false end
        end
    end
    return any
end

-- The rungs in whole steps, rising; the last is the request wherever there is one. Nothing where the first
-- would save less than a tenth of the request.
local function rungs(predicted, request, least, step, above)
    local all, below, highest = {}, {}, 0
    if request then least = math.min(least, request * step) end
    for _, amount in ipairs(predicted) do
        highest = math.max(highest, amount / step)
        table.insert(all, math.ceil(math.max(amount, least) / step))
    end
    table.sort(all)
    for place = #all, 2, -1 do
        if all[place] == all[place - 1] then table.remove(all, place) end
    end
    if not request then return above and all or {} end
    if above and highest > request then return all end
    for _, rung in ipairs(all) do
        if rung < request then table.insert(below, rung) end
    end
    if #below == 0 or 10 * below[1] > 9 * request then return {} end
    table.insert(below, request)
    return below
end

local function finite(number)
    return type(number) == "number" and number >= 0 and number < math.huge and number or nil
end

-- What is requested for a job, first and after each failure: `memory` (MiB of the whole job), `minutes`, and the `reason` in words; nil
-- where the rules do not cover it. As plan_requests of services/request_policy.py, which tests hold it against.
function gridcast.plan(policy, row, job, fresh)
    local mode = policy.mode
    if (mode ~= "observe" and mode ~= "suggest" and mode ~= "act") or not covers(policy, job) then return nil end
    local unchanged = function(reason) return { mode = mode, memory = {}, minutes = {}, reason = "requests unchanged: " .. reason } end
    if not row then return unchanged("no prediction") end
    if not fresh then return unchanged("stale prediction") end
    if row.level ~= "job" and row.level ~= "program" then return unchanged("predicted by " .. tostring(row.level) .. " only") end
    if finite(row.new) ~= 0 then return unchanged(job.user and job.user ~= "" and "new user" or "no history") end
    local jobs = finite(row.jobs) or 0
    if jobs < policy.least_jobs then return unchanged(string.format("%d such jobs, %d needed", jobs, policy.least_jobs)) end
    if not job.can_retry then return unchanged("may not run again") end
    local bytes, limits = {}, {}
    for _, suffix in ipairs({ "", "_2", "_3" }) do
        local rung = job.memory_can_change and finite(row["peak_memory_allocation" .. suffix])
        if rung then table.insert(bytes, rung) end
    end
    local limit = finite(row.walltime_kill_limit)
    if limit then limits[1] = math.max(limit, finite(row.longest) or 0) * 1.25 end
    local above = policy.above_request == 1
    local memory = rungs(bytes, job.memory, policy.least_memory, 1048576, above)
    local minutes = rungs(limits, job.minutes, policy.least_walltime, 60, above)
    if #memory == 0 and #minutes == 0 then
        if not above and not job.memory and not job.minutes then return unchanged("it requests nothing") end
        return unchanged("less than 10 % would be saved")
    end
    local parts = {}
    for _, part in ipairs({ { "memory", memory, "MiB" }, { "time", minutes, "min" } }) do
        local texts = {}
        for _, rung in ipairs(part[2]) do table.insert(texts, string.format("%d", rung)) end
        if #texts > 0 then table.insert(parts, part[1] .. " " .. table.concat(texts, ", ") .. " " .. part[3]) end
    end
    local verb = mode == "act" and "requests " or "would request "
    return { mode = mode, memory = memory, minutes = minutes, reason = verb .. table.concat(parts, ", ") .. string.format(" after %d jobs", jobs) }
end

-- The job as gridcast.plan sees it, and its cores.
local function request_of(site, job_desc, part_list, user)
    local tasks, each = known(job_desc.num_tasks) or 1, known(job_desc.cpus_per_task, NO_VAL16) or 1
    local cores = math.max(known(job_desc.min_cpus) or 1, tasks * each)
    local per_node, per_cpu = known(job_desc.min_mem_per_node, slurm.NO_VAL64), known(job_desc.min_mem_per_cpu, slurm.NO_VAL64)
    -- What several nodes need each is not predicted, nor how tasks that may spread over nodes share it.
    local nodes, most = known(job_desc.min_nodes) or 1, known(job_desc.max_nodes)
    local one_node = nodes <= 1 and (most == 1 or tasks <= 1)
    local requeue = known(job_desc.requeue, NO_VAL16)
    local whole = per_node == 0 or per_cpu == 0 or known(job_desc.mem_per_tres) or job_desc.shared == 0
    local minutes = known(job_desc.time_limit)
    return {
        user = user,
        program = known(job_desc.name),
        queue = partition_of(job_desc, part_list),
        memory = per_node or (per_cpu and per_cpu * cores),
        minutes = minutes ~= INFINITE and minutes or nil,
        memory_can_change = one_node and not whole and (per_node or per_cpu or site.most_memory) ~= nil,
        -- Only batch jobs can be queued again, and not where their user forbids it.
        can_retry = known(job_desc.script) ~= nil and (requeue == 1 or (requeue == nil and site.jobs_requeue)),
        cores = cores,
        per_cpu = per_cpu ~= nil,
    }
end

-- The plan for a job within what its partition and node allow.
local function plan_of(site, policy, row, job, fresh, part)
    if site.mode then policy = setmetatable({ mode = site.mode }, { __index = policy }) end
    local within = nil
    if row then
        within = {}
        for name, value in pairs(row) do within[name] = value end
        local most_memory = math.max(job.memory or 0, site.most_memory or 0) * 1048576
        for _, suffix in ipairs({ "", "_2", "_3" }) do
            local name = "peak_memory_allocation" .. suffix
            within[name] = finite(row[name]) and math.min(row[name], most_memory)
        end
        -- Above the partition's own limit a job would be refused, or wait for ever.
        local highest, limit = part and known(part.max_time), finite(row.walltime_kill_limit) or 0
        local needed = math.max(limit, finite(row.longest) or 0) * 1.25 / 60
        if highest and highest ~= INFINITE and needed > highest then within.walltime_kill_limit = nil end
    end
    return gridcast.plan(policy, within, job, fresh)
end

-- What is said of a job, the time limit (minutes) that it may be given where it has none, the plan of its requests, and the job.
local function foresee(site, job_desc, part_list)
    local user = known(job_desc.user_name) or (job_desc.user_id and tostring(job_desc.user_id))
    if among(site.opt_out_users, user) or among(site.opt_out_programs, job_desc.name) then return nil end
    if (known(job_desc.comment) or ""):find(site.opt_out_word, 1, true) then return nil end
    local keys, minutes = keys_of(job_desc, part_list, user)
    local found, about, header = gridcast.look_up(site.table, keys)
    local policy = found and about.policy or (header and header.policy)
    local job = request_of(site, job_desc, part_list, user)
    local part = part_list and job.queue and part_list[job.queue]
    if not found then return "gridcast: no prediction (" .. about .. ")", nil, policy and plan_of(site, policy, nil, job, false, part) end
    local age = os.time() - about.written_at
    if age > site.forgotten_after then return string.format("gridcast: no prediction (stale: the table is %d s old)", age) end
    -- A job ends at its limit, whatever others did without one.
    local most = minutes and minutes * 60 or math.huge
    local told = function(name) return math.min(found[name], most) end
    local stale = age > site.stale_after
    local said = string.format(
        "gridcast: %.0f s (%.0f-%.0f) by %s of %s%s",
        told("walltime"), told("walltime_low"), told("walltime_high"), found.level, about.version, stale and string.format(", stale: the table is %d s old", age) or ""
    )
    local own = found.level == "job" or found.level == "program"
    local limit = nil
    if site.set_time_limit and not minutes and not stale and own and found.new == 0 and found.jobs >= site.least_jobs then
        local needed = math.max(found.walltime_kill_limit, found.longest or 0) / 60
        limit = math.max(site.least_time_limit, math.ceil(needed * site.time_limit_margin))
        -- Above the partition's own limit a job would be refused, or wait for ever; below what such jobs took, it would be killed.
        local highest = part and known(part.max_time)
        if highest and highest ~= INFINITE and limit > highest then limit = needed <= highest and highest or nil end
    end
    return said, limit, plan_of(site, policy, found, job, not stale, part), job
end

-- Write the first rungs into the job, in the unit that it used.
local function write_requests(job_desc, plan, job)
    local memory, minutes = plan.memory[1], plan.minutes[1]
    if memory and job.per_cpu then
        job_desc.min_mem_per_cpu = math.ceil(memory / job.cores)
    elseif memory then
        job_desc.min_mem_per_node = memory
    end
    if minutes then job_desc.time_limit = minutes end
end

-- A function for slurm_job_submit(job_desc, part_list): sets the admin comment, and the comment where the user gave none, and never fails.
function gridcast.adapter(options)
    local site = setmetatable(options or {}, { __index = defaults })
    return function(job_desc, part_list)
        local worked, said, limit, plan, job = pcall(foresee, site, job_desc, part_list)
        if not worked then
            slurm.log_info("gridcast: no prediction: %s", tostring(said))
            said, limit, plan = "gridcast: no prediction (see slurmctld's log)", nil, nil
        end
        if not said then return end
        pcall(function()
            -- The comment is for people, and its owner may change it; the prediction log and gridcast_requeue read what only an
            -- administrator can write.
            local reason = plan and said .. "; " .. plan.reason or said
            if plan and plan.mode == "act" and job then write_requests(job_desc, plan, job) end
            job_desc.admin_comment = reason
            if not known(job_desc.comment) then job_desc.comment = plan and plan.mode ~= "observe" and reason or said end
            if plan and plan.mode ~= "observe" and (#plan.memory > 0 or #plan.minutes > 0) then
                slurm.log_user("gridcast: %s; --comment=%s keeps your own", plan.reason, site.opt_out_word)
            end
            if limit and not (plan and plan.mode == "act" and plan.minutes[1]) then
                job_desc.time_limit = limit
                slurm.log_user("gridcast: no --time was given, so the limit is %d minutes; give --time to set your own", limit)
            end
        end)
    end
end

return gridcast
