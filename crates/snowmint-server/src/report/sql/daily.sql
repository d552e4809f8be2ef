-- The document's view, by its corrected columns.
SELECT
    toString(date),
    datacenter_id,
    worker_id,
    total_ids,
    requests,
    error_count,
    avg_latency,
    max_latency
FROM daily_id_stats
WHERE date >= toDate(fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC'))
    AND toDateTime(date, 'UTC') < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
    AND ({datacenter:Int32} < 0 OR datacenter_id = {datacenter:Int32})
    AND ({worker:Int32} < 0 OR worker_id = {worker:Int32})
ORDER BY date DESC, (datacenter_id, worker_id) != (65535, 65535), datacenter_id, worker_id
LIMIT {rows_max:UInt32}
