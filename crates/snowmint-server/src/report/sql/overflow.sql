-- As the document has it.
SELECT
    formatDateTime(toStartOfHour(timestamp) AS hour, '%Y-%m-%dT%H:%i:%SZ') AS hour_text,
    datacenter_id,
    worker_id,
    sum(overflow_count) AS total_overflows,
    avg(wait_time_ms) AS avg_wait_ms,
    max(wait_time_ms) AS max_wait_ms,
    avg(load_factor) AS avg_load_factor
FROM sequence_overflow_events
WHERE timestamp >= toDateTime(intDiv({from_ms:Int64}, 1000), 'UTC')
    AND timestamp < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
    AND ({datacenter:Int32} < 0 OR datacenter_id = {datacenter:Int32})
    AND ({worker:Int32} < 0 OR worker_id = {worker:Int32})
GROUP BY hour, datacenter_id, worker_id
HAVING total_overflows > 0
ORDER BY hour DESC, total_overflows DESC, (datacenter_id, worker_id) != (65535, 65535), datacenter_id, worker_id
LIMIT {rows_max:UInt32}
