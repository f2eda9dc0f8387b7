-- Prints the totals of a run as one JSON line (wrk's own text is rounded) and, on request, shapes the traffic:
--   (nothing)        one fixed request
--   close-each N     every N-th request closes its connection: N requests a connection on average
--   routes N         64 paths spread evenly over /r0/ ... /r(N-1)/, the last one included

function init(args)
  local mode, number = args[1], tonumber(args[2])
  if mode == "close-each" then
    local keep = wrk.format("GET", nil, wrk.headers)
    local headers = {Host = wrk.headers["Host"], Connection = "close"}
    local close, count = wrk.format("GET", nil, headers), 0
    request = function()
      count = count + 1
      if count % number == 0 then return close end
      return keep
    end
  elseif mode == "routes" then
    local requests, count = {}, 0
    for index = 1, 64 do
      local route = math.floor(index * number / 64 + 0.5) - 1
      if route < 0 then route = 0 end
      requests[index] = wrk.format("GET", "/r" .. route .. "/item", wrk.headers)
    end
    request = function()
      count = count % 64 + 1
      return requests[count]
    end
  end
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\nBENCH {"requests":%d,"bytes":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,' ..
    '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\n',
    summary.requests, summary.bytes, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
