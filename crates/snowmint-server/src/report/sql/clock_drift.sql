-- As the document has it, but drift counts by its absolute value: of -50 and 20 ms, the largest is 50.
SELECT
    formatDateTime(toStartOfHour(timestamp) AS hour, '%Y-%m-%dT%H:%i:%SZ') AS hour_text,
    datacenter_id,
    worker_id,
    avg(abs(drift_ms)) AS avg_drift_ms,
    max(abs(drift_ms)) AS max_drift_ms,
    count() AS drift_events
FROM clock_drift_events
WHERE timestamp >= toDateTime(intDiv({from_ms:Int64}, 1000), 'UTC')
    AND timestamp < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
    AND ({datacenter:Int32} < 0 OR datacenter_id = {datacenter:Int32})
    AND ({worker:Int32} < 0 OR worker_id = {worker:Int32})
    AND abs(drift_ms) > {drift_ms_min:Int32}
GROUP BY hour, datacenter_id, worker_id
ORDER BY hour DESC, max_drift_ms DESC, (datacenter_id, worker_id) != (65535, 65535), datacenter_id, worker_id
LIMIT {rows_max:UInt32}
