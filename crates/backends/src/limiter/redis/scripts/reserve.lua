-- Settles calls of one node, decides about others, and lends the node a part of what is left, for one caller or key, in one
-- step.
--
-- The rules are those of the in-process limiter: a window of charges as an adaptive run-length log, and beside it what the
-- calls in flight hold, per node. Each node states what it holds absolutely, and numbers its calls, so that a call that
-- arrives twice counts once. What a node held that is silent for too long counts as used when its time ends.
--
-- A lease lets a node admit calls by itself until the lease ends. What is lent counts as used. Each step of the node ends its
-- lease: the step says what was admitted on it, and the rest is free again. A lease that ends without a step counts as used
-- up when it ends. If the step comes later, what it says takes the place of that.
--
-- Redis may lose all of it, or the last moments. A node whose newest call is not known any more then says so, and makes its
-- call again with all that it has used; the value is built anew from what the nodes say. Until each has made a call, nothing is
-- admitted, at first; later what the others may have used is withheld, until it would have left the window.
--
-- KEYS[1]      kp:{id}
-- ARGV[1]      length of the window, ms, at most an hour
-- ARGV[2..5]   limits: requests, input tokens, output tokens, calls in flight; -1: no limit
-- ARGV[6]      the node, a number below 2^32 that no other process uses
-- ARGV[7]      the number of this call among the node's calls for this key, rising, from 1, below 2^32
-- ARGV[8]      how long the node's record holds without another call, ms, at most four hours
-- ARGV[9..12]  what the node's calls in flight hold, without those that are decided here: number of calls; output tokens:
--              sum of means, of variances, of maxima
-- ARGV[13]     the number of the node's newest call that was confirmed, if anything of the node may still count, else 0
-- ARGV[14..15] what is known of all nodes: how many there are; since when (ms) each has told all that it uses
-- ARGV[16]     when data was lost, ms, if not all nodes have told what they use since; else 0. A key that has not been used
--              since then may have been lost, or what it last held
-- ARGV[17]     how long the nodes have to say what they use, ms
-- ARGV[18]     1: the node says all that it has used, for a value that was lost; 0: it adds what it admitted without Redis
-- ARGV[19..23] what the node wants to be lent: the number of requests that it expects in a window (0: no lease), and for each
--              of them the input tokens, and the mean, variance and maximum of the output tokens
-- ARGV[24]     number of charges that it says; then four for each, the oldest first: age, ms; requests, input tokens,
--              output tokens
-- then         number of settlements; then six for each:
--              when the call was admitted (as returned), ms; what to add to the charges of that time (negative: give
--              back): requests, input tokens, output tokens; what to charge now: input tokens, output tokens
-- then         four for each call to decide, at most 32: input tokens; output tokens: mean, variance, maximum
--
-- Returns integers: the server's time, ms; 1 if this call had been received before, 2 if earlier ones were lost, so that
-- nothing was done, else 0; used in the window: requests, input tokens, output tokens; held: output tokens, calls; when all
-- of each dimension will have left the window, ms (0: nothing used); when this step was received first, ms; 1 if a call was
-- refused while other nodes have leases, which they must return, else 0; of the new lease: its length, ms (0: there is
-- none), requests, input tokens, output tokens, calls in flight; then three for each call to decide:
--   0, 0, when it counts (ms)          admitted
--   dimension, 0, T                    refused; admitted at T (ms) if nobody else takes the room
--   dimension, 1, T                    refused until calls in flight end; then at the latest at T (-1: nothing tells)
--   dimension, 2, 0                    refused; it needs more than the whole limit
-- with dimension 1 requests, 2 input tokens, 3 output tokens, 4 calls in flight. An admitted call is in the node's holds
-- until a later call of the node states them without it.
-- Error STALE: the node has made a later call.
--
-- The value: version, time of the newest decision, what is used (three sums), a base time (ms before the end of the newest
-- decision's millisecond), ms from the first charge of the newest entry to its last, numbers of entries and nodes, when it
-- was built anew after a loss (as the base; 0: it was not), how long nothing is lent (ms from the newest decision); then
-- entries, oldest first: last charge (ms since the base) and three amounts, in 2 bytes each (version 1), in 2, 3 and 3
-- (version 2), or in 4 each, like the time (version 3); then nodes: flags (1: calls in flight, 2: a lease), id, number of
-- the newest call, end of its record (ms from the newest decision), its admissions (bits) and their time (as the base); of
-- the calls in flight, their number and the three sums; of the lease, its end (ms from the newest decision, plus 2^31), and
-- what is lent.
-- Entries are read only where they are needed: mostly the oldest and the newest.

-- While there are fewer entries than FEW, one spans at most 1/SHORT of the window, then 1/LONG, by version. That bounds the
-- value to about 890 bytes, whatever its version.
local FEW, SHORT, LONG = 32, 6000, {60, 44, 44}
-- Standard deviations of the sum that are held beside its mean.
local DEVIATIONS = 4
local HEADER, NODE = '>BI6I5I5I5I3I2I2I2I3I2', '>BI4I4I3I4I3'
local HELD, LEASE, MIDDLE = '>I4ddI6', '>I4I4I4I4I2', 2 ^ 31
local FORMATS, SIZES = {'>I2I2I2I2', '>I2I2I3I3', '>I4I4I4I4'}, {8, 10, 16}
-- What an entry can hold of requests and of tokens.
local MOST_REQUESTS, MOST_TOKENS = {65535, 65535, 2 ^ 32 - 1}, {65535, 2 ^ 24 - 1, 2 ^ 32 - 1}
local MOST = 2 ^ 32 - 1
-- The longest time from the base to an entry.
local LATEST = {65535, 65535, 2 ^ 23}
-- What is lent is to last for a part of the window: the less of the limits is used, the longer. Above the last bound, Redis
-- decides about each call.
local BOUNDS, LASTING = {0.85, 0.93, 0.98}, {1 / 6, 1 / 12, 1 / 30}
-- The time that a node has to return a lease after that, as a part of the window.
local TO_RETURN = 1 / 30
-- With more corrections than this, all entries are read.
local FEW_CORRECTIONS = 3
-- The most calls in flight on a lease.
local MOST_CALLS = 65535
-- After a call was refused while others had leases, nothing is lent for this part of the window.
local PAUSE = 1 / 60
-- How long nodes have to return what they were lent, ms.
local RECALL = 240

local length = tonumber(ARGV[1])
local limits = {tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])}
local max_calls = tonumber(ARGV[5])
local node_id, seq, ttl = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local confirmed, known_nodes, told_since = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])
local lost_at, patience, tells_all = tonumber(ARGV[16]), tonumber(ARGV[17]), ARGV[18] == '1'

local wants = {requests = tonumber(ARGV[19]), input = tonumber(ARGV[20]), mean = tonumber(ARGV[21])}
wants.variance, wants.max = tonumber(ARGV[22]), tonumber(ARGV[23])

local version, clock, base, span, count, body, rebuilt, not_before = 1, 0, 0, 0, 0, '', 0, 0
local totals, nodes = {0, 0, 0}, {}

local function read(value)
  local n_nodes, built, pause, at
  version, clock, totals[1], totals[2], totals[3], base, span, count, n_nodes, built, pause, at =
    struct.unpack(HEADER, value)
  base, not_before = clock + 1 - base, clock + pause
  rebuilt = built > 0 and clock + 1 - built or 0
  body = string.sub(value, at, at + count * SIZES[version] - 1)
  at = at + #body
  for i = 1, n_nodes do
    local node, flags = {calls = 0, mean = 0, variance = 0, max = 0}
    flags, node.id, node.seq, node.ends, node.bits, node.at, at = struct.unpack(NODE, value, at)
    node.ends, node.at = clock + node.ends, clock + 1 - node.at
    if flags % 2 == 1 then
      node.calls, node.mean, node.variance, node.max, at = struct.unpack(HELD, value, at)
    end
    if flags >= 2 then
      local lease = {}
      lease.ends, lease[1], lease[2], lease[3], lease.calls, at = struct.unpack(LEASE, value, at)
      lease.ends = lease.ends - MIDDLE + clock
      node.lease = lease
    end
    nodes[i] = node
  end
end

local function write()
  local since = clock + 1 - (count > 0 and base or clock)
  local built = rebuilt > 0 and clock + 1 - rebuilt or 0
  local a, b, c = unpack(totals)
  local pause = math.max(0, not_before - clock)
  local header =
    struct.pack(HEADER, version, clock, a, b, c, since, math.min(span, 65535), count, #nodes, built, pause)
  local parts = {header, body}
  for _, node in ipairs(nodes) do
    local flags, lease = (node.calls > 0 and 1 or 0) + (node.lease and 2 or 0), node.lease
    parts[#parts + 1] =
      struct.pack(NODE, flags, node.id, node.seq, node.ends - clock, node.bits, clock + 1 - node.at)
    if node.calls > 0 then
      parts[#parts + 1] = struct.pack(HELD, node.calls, node.mean, node.variance, math.min(node.max, 2 ^ 48 - 1))
    end
    if lease then
      local ends = lease.ends - clock + MIDDLE
      parts[#parts + 1] = struct.pack(LEASE, ends, lease[1], lease[2], lease[3], lease.calls)
    end
  end
  return table.concat(parts)
end

-- Time of the last charge of an entry, and its three amounts.
local function entry(i)
  local last, a, b, c = struct.unpack(FORMATS[version], body, (i - 1) * SIZES[version] + 1)
  return last + base, a, b, c
end

-- The lowest version whose entries can hold such amounts.
local function version_for(requests, input, output)
  local v = 1
  while requests > MOST_REQUESTS[v] or math.max(input, output) > MOST_TOKENS[v] do v = v + 1 end
  return v
end

-- The longest time from the first charge of an entry to its last.
local function width(entries)
  return length / (entries < FEW and SHORT or LONG[version])
end

local function recode(new_version, new_base)
  local parts = {}
  for i = 1, count do
    local last, a, b, c = entry(i)
    parts[i] = struct.pack(FORMATS[new_version], last - new_base, a, b, c)
  end
  version, base, body = new_version, new_base, table.concat(parts)
end

-- Writes an entry, a new one if `i` is count + 1, after adding `amounts` to the old ones.
local function put(i, last, old, amounts)
  local new = {}
  for d = 1, 3 do
    new[d] = math.max(0, math.min(old[d] + amounts[d], MOST))
    totals[d] = totals[d] + new[d] - old[d]
  end
  if count == 0 then version, base = 1, last end
  local needed = version_for(new[1], new[2], new[3])
  if needed > version then recode(needed, base) end
  if last - base > LATEST[version] then
    local first = entry(1)
    recode(last - first > LATEST[version] and 3 or version, first)
  end
  local before, size = (i - 1) * SIZES[version], SIZES[version]
  local packed = struct.pack(FORMATS[version], last - base, new[1], new[2], new[3])
  body = string.sub(body, 1, before) .. packed .. string.sub(body, before + size + 1)
  count = math.max(count, i)
end

local function pooled(held)
  return math.min(math.ceil(held.mean + DEVIATIONS * math.sqrt(held.variance)), held.max)
end

-- Charges at `at`, or at a later time that was charged before, and returns that time.
local function charge(at, amounts)
  if count > 0 then
    local last, a, b, c = entry(count)
    at = math.max(at, last)
    if at - (last - span) < width(count) then
      span = span + at - last
      put(count, at, {a, b, c}, amounts)
      return at
    end
  end
  span = 0
  put(count + 1, at, {0, 0, 0}, amounts)
  return at
end

-- Adds to what was charged at `at`, unless that has left the window. Of what is given back, what this entry does not hold is
-- taken from the next ones: a node that charged calls of several entries in one does not say in which a call is.
local function correct(now, at, amounts)
  if count == 0 or at + length <= now or entry(count) < at then return end
  local i = count
  while i > 1 and entry(i - 1) >= at do i = i - 1 end
  while i <= count do
    local last, a, b, c = entry(i)
    local old, rest, is_rest = {a, b, c}, {}, false
    for d = 1, 3 do
      rest[d] = math.min(0, old[d] + amounts[d])
      is_rest = is_rest or rest[d] < 0
    end
    put(i, last, old, amounts)
    if not is_rest then return end
    amounts, i = rest, i + 1
  end
end

-- The dimensions that are limited.
local function counted(amounts)
  local result = {}
  for d = 1, 3 do result[d] = limits[d] >= 0 and amounts[d] or 0 end
  return result
end

local function expire(now)
  local gone = 0
  while gone < count do
    local last, a, b, c = entry(gone + 1)
    if last + length > now then break end
    gone = gone + 1
    totals[1], totals[2], totals[3] = totals[1] - a, totals[2] - b, totals[3] - c
  end
  body = string.sub(body, gone * SIZES[version] + 1)
  count = count - gone
end

-- Charges leases that have ended since the last decision, and drops nodes that were silent for too long. What they held
-- counts from the end of their record on.
local function expire_nodes(before, now)
  local alive = {}
  for _, node in ipairs(nodes) do
    local lease = node.lease
    if lease and before < lease.ends and lease.ends <= now then
      charge(lease.ends, {lease[1], lease[2], lease[3]})
      -- Calls on it may be in flight.
      node.calls = node.calls + lease.calls
    end
    if node.ends > now then
      alive[#alive + 1] = node
    elseif node.calls > 0 then
      charge(node.ends, {0, 0, pooled(node)})
    end
  end
  nodes = alive
end

local function find_own()
  for _, node in ipairs(nodes) do
    if node.id == node_id then return node end
  end
end

local function forget()
  version, base, span, count, body = 1, 0, 0, 0, ''
  totals, nodes = {0, 0, 0}, {}
end

-- Ends the node's lease. What was charged since it ended by itself is given back: the node says what was used.
local function end_lease(now, node)
  local lease = node.lease
  if not lease then return end
  if lease.ends <= now then correct(now, lease.ends, {-lease[1], -lease[2], -lease[3]}) end
  node.lease = nil
end

-- Adds charges of earlier times, the oldest first. One is counted with the next later entry if that is close, so no charge
-- counts longer because others are added. The newest ones come first, so that others find them.
local function add_charges(entries, charges)
  local i = #entries + 1
  for n = #charges, 1, -1 do
    local of = charges[n]
    while i > 1 and entries[i - 1][1] >= of[1] do i = i - 1 end
    local next = entries[i]
    if not next or next[1] - of[1] >= width(#entries) then
      next = {of[1], 0, 0, 0}
      table.insert(entries, i, next)
    end
    for d = 1, 3 do next[1 + d] = math.min(next[1 + d] + of[1 + d], MOST) end
  end
end

-- As `correct`, in entries that were read.
local function correct_in(entries, now, at, amounts)
  if at + length <= now then return end
  local low, high = 1, #entries + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if entries[middle][1] >= at then high = middle else low = middle + 1 end
  end
  for i = low, #entries do
    local of, is_rest, rest = entries[i], false, {}
    for d = 1, 3 do
      rest[d] = math.min(0, of[1 + d] + amounts[d])
      is_rest = is_rest or rest[d] < 0
      of[1 + d] = math.max(0, math.min(of[1 + d] + amounts[d], MOST))
    end
    if not is_rest then return end
    amounts = rest
  end
end

-- Has all entries changed at once, which costs less than many single changes.
local function rewrite(change)
  local entries = {}
  for n = 1, count do entries[n] = {entry(n)} end
  local newest = count > 0 and entries[count][1]
  change(entries)
  count = #entries
  if count == 0 then return end
  if entries[count][1] ~= newest then span = 0 end
  base, version, totals = entries[1][1], 1, {0, 0, 0}
  for _, of in ipairs(entries) do
    version = math.max(version, version_for(of[2], of[3], of[4]))
    for d = 1, 3 do totals[d] = totals[d] + of[1 + d] end
  end
  if entries[count][1] - base > LATEST[version] then version = 3 end
  local parts = {}
  for n, of in ipairs(entries) do parts[n] = struct.pack(FORMATS[version], of[1] - base, of[2], of[3], of[4]) end
  body = table.concat(parts)
end

local function own_record(now)
  local found = find_own()
  if found then return found end
  local node = {id = node_id, seq = 0, bits = 0, at = now, calls = 0, mean = 0, variance = 0, max = 0}
  nodes[#nodes + 1] = node
  return node
end

-- When at least `amount` of a dimension will have left the window; nil if it holds less.
local function frees(d, amount)
  local freed = 0
  for i = 1, count do
    local charged = {entry(i)}
    freed = freed + charged[1 + d]
    if freed >= amount then return charged[1] + length end
  end
end

-- What may be used of each limit: all of it, unless other nodes have still to say what they used.
local caps = limits

local function withhold(now)
  if rebuilt == 0 or told_since >= rebuilt then return end
  local told = 0
  for _, node in ipairs(nodes) do
    if node.at >= rebuilt then told = told + 1 end
  end
  if told < known_nodes then
    local part = now < rebuilt + patience and 0 or told / known_nodes
    caps = {}
    for d = 1, 3 do caps[d] = math.floor(limits[d] * part) end
    if max_calls >= 0 then max_calls = math.ceil(max_calls * part) end
  end
end

-- What other nodes were lent.
local function sum_leases()
  local sums = {0, 0, 0, calls = 0, count = 0}
  for _, node in ipairs(nodes) do
    local lease = node.lease
    if lease and lease.ends > clock then
      for d = 1, 3 do sums[d] = sums[d] + lease[d] end
      sums.calls, sums.count = sums.calls + lease.calls, sums.count + 1
    end
  end
  return sums
end

-- Whether a call is admitted, as in the reply. The fourth result: other nodes have to return what they were lent.
local function decide(now, held, lent, call)
  local after = {mean = held.mean + call.mean, variance = held.variance + call.variance, max = held.max + call.max}
  local needed = {1, call.input, pooled(after)}
  local alone = {1, call.input, pooled(call)}
  local dimension, kind, time, rank = 0, 0, 0, -1
  if max_calls >= 0 and held.calls + lent.calls >= max_calls then
    dimension, kind, time, rank = 4, 1, -1, 0
  end
  for d = 1, 3 do
    local excess = totals[d] + lent[d] + needed[d] - caps[d]
    if limits[d] >= 0 and excess > 0 then
      local k, t, r = 2, 0, math.huge
      if alone[d] <= limits[d] then
        local free = frees(d, excess)
        k, t = free and 0 or 1, free or (count > 0 and (entry(count)) or now) + length
        r = t
      end
      if r > rank then dimension, kind, time, rank = d, k, t, r end
    end
  end
  if dimension == 0 or kind == 2 then return dimension, kind, time, false end
  -- The others may have used less than they were lent, and calls of theirs may have ended since they said so.
  if lent.count > 0 then return dimension, 0, now + RECALL, true end
  -- What is withheld may be there at any time.
  if caps ~= limits then kind, time = 0, now + math.ceil(patience / 8) end
  return dimension, kind, time, false
end

-- How much of what is not used a node can be lent: an equal part, so that one part stays for those who come, and at most half
-- of what is not lent.
local function share(unused, lent)
  return math.min(unused / (#nodes + 1), (unused - lent) / 2)
end

-- The number of requests that a lease is for: 0 if there is to be none.
local function requests_to_lend(now, held, lent)
  if caps ~= limits or now < not_before then return 0 end
  local used, left = {totals[1], totals[2], totals[3] + pooled(held)}, {}
  local most_used = 0
  for d = 1, 3 do
    if limits[d] >= 0 then
      most_used = math.max(most_used, used[d] / limits[d])
      left[d] = share(limits[d] - used[d], lent[d])
    end
  end
  local class = 1
  while BOUNDS[class] and most_used >= BOUNDS[class] do class = class + 1 end
  if not LASTING[class] then return 0 end
  local expected = 1.25 * wants.requests * LASTING[class]
  if expected < 2 then return 0 end
  local n = math.ceil(expected) + 1
  if left[1] then n = math.min(n, math.floor(left[1])) end
  if left[2] and wants.input > 0 then n = math.min(n, math.floor(left[2] / wants.input)) end
  local function output() return pooled({mean = n * wants.mean, variance = n * wants.variance, max = n * wants.max}) end
  while left[3] and n >= 2 and output() > left[3] do n = math.floor(n / 2) end
  return n, LASTING[class], output()
end

local function lend(now, held, lent, node)
  local n, part, output = requests_to_lend(now, held, lent)
  if n < 2 then return end
  local calls = 0
  if max_calls >= 0 then
    calls = math.min(n, MOST_CALLS, math.floor(share(max_calls - held.calls, lent.calls)))
    if calls < 1 then return end
  end
  local lease = counted({math.min(n, MOST), math.min(math.ceil(n * wants.input), MOST), math.floor(output)})
  lease.ends, lease.calls = now + math.ceil((part + TO_RETURN) * length), calls
  node.lease = lease
end

local function admit(now, held, node, call)
  for _, sums in ipairs({held, node}) do
    sums.calls = sums.calls + 1
    sums.mean, sums.variance, sums.max = sums.mean + call.mean, sums.variance + call.variance, sums.max + call.max
  end
  if math.max(limits[1], limits[2], limits[3]) < 0 then return now end
  -- The window counts whole milliseconds. So that nothing leaves it early, a charge counts from the end of its own.
  return charge(now + 1, counted({1, call.input, 0}))
end

local function empties(d)
  if totals[d] == 0 then return 0 end
  for i = count, 1, -1 do
    local charged = {entry(i)}
    if charged[1 + d] > 0 then return charged[1] + length end
  end
end

local value = redis.call('GET', KEYS[1])
if value then read(value) end
local time = redis.call('TIME')
-- A clock that goes back frees nothing.
local now = math.max(clock, time[1] * 1000 + math.floor(time[2] / 1000))
local used_at = clock
expire_nodes(clock, now)
clock = now
expire(now)
if now >= rebuilt + length then rebuilt = 0 end

local before = find_own()
if before and seq < before.seq then return redis.error_reply('STALE the node has made a later call') end
if not tells_all and confirmed > (before and before.seq or 0) then return {now, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} end
local repeated = before ~= nil and seq == before.seq
if tells_all and not repeated and (before or rebuilt == 0) then
  forget()
  rebuilt = now
elseif used_at < lost_at then
  rebuilt = math.min(lost_at, now)
end
local node = own_record(now)
if not repeated then
  node.seq, node.bits, node.at = seq, 0, now
  node.calls, node.mean = tonumber(ARGV[9]), tonumber(ARGV[10])
  node.variance, node.max = tonumber(ARGV[11]), tonumber(ARGV[12])
  end_lease(now, node)
end
node.ends = now + ttl

local position, told = 25, {}
for _ = 1, tonumber(ARGV[24]) do
  -- As in `admit`, it counts from the end of its millisecond.
  local at = now + 1 - tonumber(ARGV[position])
  if at + length > now then
    told[#told + 1] = {at, tonumber(ARGV[position + 1]), tonumber(ARGV[position + 2]), tonumber(ARGV[position + 3])}
  end
  position = position + 4
end
position = position + 1
local corrections, debt = {}, {0, 0, 0}
for n = 1, tonumber(ARGV[position - 1]) do
  local a = {}
  for i = 1, 6 do a[i] = tonumber(ARGV[position + i - 1]) end
  corrections[n] = {a[1], {a[2], a[3], a[4]}}
  debt[2], debt[3] = debt[2] + a[5], debt[3] + a[6]
  position = position + 6
end
if not repeated then
  if #told > 0 or #corrections > FEW_CORRECTIONS then
    rewrite(function(entries)
      add_charges(entries, told)
      for _, of in ipairs(corrections) do correct_in(entries, now, of[1], of[2]) end
    end)
  else
    for _, of in ipairs(corrections) do correct(now, of[1], of[2]) end
  end
  if debt[2] > 0 or debt[3] > 0 then charge(now + 1, debt) end
end

local held = {calls = 0, mean = 0, variance = 0, max = 0}
for _, of in ipairs(nodes) do
  held.calls, held.mean = held.calls + of.calls, held.mean + of.mean
  held.variance, held.max = held.variance + of.variance, held.max + of.max
end

withhold(now)
local lent = sum_leases()
local decisions, is_recalled = {}, false
local bit = 1
while ARGV[position] do
  local call = {input = tonumber(ARGV[position]), mean = tonumber(ARGV[position + 1])}
  call.variance, call.max = tonumber(ARGV[position + 2]), tonumber(ARGV[position + 3])
  position = position + 4
  local dimension, kind, at = 0, 0, node.at
  local was_admitted = math.floor(node.bits / bit) % 2 == 1
  if not was_admitted then
    local recalls
    dimension, kind, at, recalls = decide(now, held, lent, call)
    is_recalled = is_recalled or recalls
    -- A call that was refused, in a reply that was lost, is not admitted by the repetition.
    if dimension == 0 and repeated then dimension, at = 1, now end
    if dimension == 0 then
      at = admit(now, held, node, call)
      node.at, node.bits = at, node.bits + bit
    end
  end
  decisions[#decisions + 1] = dimension
  decisions[#decisions + 1] = kind
  decisions[#decisions + 1] = at
  bit = bit * 2
end

if is_recalled then not_before = now + math.ceil(length * PAUSE) end
if not repeated then lend(now, held, lent, node) end

local ends = count > 0 and (entry(count)) + length or now
for _, of in ipairs(nodes) do
  ends = math.max(ends, of.ends + (of.calls > 0 and length or 0), of.lease and of.lease.ends + length or 0)
end
redis.call('SET', KEYS[1], write(), 'PX', ends - now + 1)

local reply = {now, repeated and 1 or 0, totals[1], totals[2], totals[3], pooled(held), held.calls}
for d = 1, 3 do reply[#reply + 1] = empties(d) end
-- What was admitted counts from the end of the millisecond.
reply[#reply + 1] = node.bits > 0 and node.at - 1 or node.at
reply[#reply + 1] = is_recalled and 1 or 0
local lease = node.lease and node.lease.ends > now and node.lease or {0, 0, 0, ends = now, calls = 0}
for _, number in ipairs({lease.ends - now, lease[1], lease[2], lease[3], lease.calls}) do reply[#reply + 1] = number end
for _, number in ipairs(decisions) do reply[#reply + 1] = number end
return reply
