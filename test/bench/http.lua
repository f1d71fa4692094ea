-- wrk prints one JSON object with what the http cell needs.
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format(
        '\n{"requests": %d, "seconds": %.6f, "p50_us": %.1f, "p99_us": %.1f, "bytes": %.0f, ' ..
        '"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
        summary.bytes, e.connect, e.read, e.write, e.status, e.timeout))
end
