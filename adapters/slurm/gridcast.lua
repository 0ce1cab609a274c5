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

-- The numbers of the first of the keys that the table has, by column, and what is known of the table; or nil and why.
function gridcast.look_up(path, keys)
    local file = io.open(path, "rb")
    if not file then return nil, "no table" end
    local first, columns = file:read("*l"), file:read("*l")
    local stamp = split(first or "")
    local about = { written_at = tonumber(stamp[2] or ""), version = stamp[4] }
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

-- What is said of a job, and the time limit (minutes) that it may be given, nil for none.
local function foresee(site, job_desc, part_list)
    local user = known(job_desc.user_name) or (job_desc.user_id and tostring(job_desc.user_id))
    if among(site.opt_out_users, user) or among(site.opt_out_programs, job_desc.name) then return nil end
    if (known(job_desc.comment) or ""):find(site.opt_out_word, 1, true) then return nil end
    local keys, minutes = keys_of(job_desc, part_list, user)
    local found, about = gridcast.look_up(site.table, keys)
    if not found then return "gridcast: no prediction (" .. about .. ")" end
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
        local part = part_list and part_list[partition_of(job_desc, part_list)]
        local highest = part and known(part.max_time)
        if highest and highest ~= INFINITE and limit > highest then limit = needed <= highest and highest or nil end
    end
    return said, limit
end

-- A function for slurm_job_submit(job_desc, part_list): sets the admin comment, and the comment where the user gave none, and never fails.
function gridcast.adapter(options)
    local site = setmetatable(options or {}, { __index = defaults })
    return function(job_desc, part_list)
        local worked, said, limit = pcall(foresee, site, job_desc, part_list)
        if not worked then
            slurm.log_info("gridcast: no prediction: %s", tostring(said))
            said, limit = "gridcast: no prediction (see slurmctld's log)", nil
        end
        if not said then return end
        pcall(function()
            -- The comment is for people, and its owner may change it; what the prediction log is told is what only an administrator can write.
            job_desc.admin_comment = said
            if not known(job_desc.comment) then job_desc.comment = said end
            if limit then
                job_desc.time_limit = limit
                slurm.log_user("gridcast: no --time was given, so the limit is %d minutes; give --time to set your own", limit)
            end
        end)
    end
end

return gridcast
