-- The window: charges, as an adaptive run-length log.

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

-- When at least `amount` of a dimension will have left the window; nil if it holds less.
local function frees(d, amount)
  local freed = 0
  for i = 1, count do
    local charged = {entry(i)}
    freed = freed + charged[1 + d]
    if freed >= amount then return charged[1] + length end
  end
end

local function empties(d)
  if totals[d] == 0 then return 0 end
  for i = count, 1, -1 do
    local charged = {entry(i)}
    if charged[1 + d] > 0 then return charged[1] + length end
  end
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
