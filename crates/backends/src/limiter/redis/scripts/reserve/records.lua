-- The nodes: what their calls in flight hold, and what they were lent.

local function pooled(held)
  return math.min(math.ceil(held.mean + DEVIATIONS * math.sqrt(held.variance)), held.max)
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

local function own_record(now)
  local found = find_own()
  if found then return found end
  local node = {id = node_id, seq = 0, bits = 0, at = now, calls = 0, mean = 0, variance = 0, max = 0}
  nodes[#nodes + 1] = node
  return node
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

-- What other nodes were lent.
local function sum_leases()
  local sums = {0, 0, 0, calls = 0, count = 0}
  for _, node in ipairs(nodes) do
    local lease = node.lease
    if lease and lease.ends > clock and node.id ~= node_id then
      for d = 1, 3 do sums[d] = sums[d] + lease[d] end
      sums.calls, sums.count = sums.calls + lease.calls, sums.count + 1
    end
  end
  return sums
end
