-- As the document has it, but a request counts once, however many IDs it got. Quantiles are made of the counts in the last
-- column: totals of totals, as exact after any number of merges.
SELECT
    datacenter_id,
    worker_id,
    sum(t.requests) AS requests,
    sum(t.latency_us_sum) / sum(t.requests) AS avg_latency_us,
    sumMap(t.latency_us_buckets) AS buckets
FROM id_generation_minutely AS t
WHERE minute >= toDateTime(intDiv({from_ms:Int64}, 1000), 'UTC')
    AND minute < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
    AND ({datacenter:Int32} < 0 OR datacenter_id = {datacenter:Int32})
    AND ({worker:Int32} < 0 OR worker_id = {worker:Int32})
    AND error_code = 0
GROUP BY datacenter_id, worker_id
ORDER BY (datacenter_id, worker_id) != (65535, 65535), datacenter_id, worker_id
LIMIT {rows_max:UInt32}
