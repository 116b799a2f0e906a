-- Deciding about calls, and lending.

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

local function admit(now, held, node, call)
  for _, sums in ipairs({held, node}) do
    sums.calls = sums.calls + 1
    sums.mean, sums.variance, sums.max = sums.mean + call.mean, sums.variance + call.variance, sums.max + call.max
  end
  if math.max(limits[1], limits[2], limits[3]) < 0 then return now end
  -- The window counts whole milliseconds. So that nothing leaves it early, a charge counts from the end of its own.
  return charge(now + 1, counted({1, call.input, 0}))
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
