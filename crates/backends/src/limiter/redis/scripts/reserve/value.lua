-- Reading and writing the value.

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
