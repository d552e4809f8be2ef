-- As the document has it, but: failed requests are no IDs; the minute that has not ended is divided by what has passed of
-- it. Read from the totals, which have every ID whatever `metrics.detail` says.
SELECT
    formatDateTime(minute, '%Y-%m-%dT%H:%i:%SZ') AS minute_text,
    datacenter_id,
    worker_id,
    sum(ids) AS ids_generated,
    ids_generated * 1000 / (least(toUnixTimestamp(minute) * 1000 + 60000, {until_ms:Int64}) - toUnixTimestamp(minute) * 1000)
        AS ids_per_second
FROM id_generation_minutely
WHERE minute >= toDateTime(intDiv({from_ms:Int64}, 1000), 'UTC')
    AND minute < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
    AND ({datacenter:Int32} < 0 OR datacenter_id = {datacenter:Int32})
    AND ({worker:Int32} < 0 OR worker_id = {worker:Int32})
GROUP BY minute, datacenter_id, worker_id
HAVING ids_generated > 0
ORDER BY minute DESC, (datacenter_id, worker_id) != (65535, 65535), datacenter_id, worker_id
LIMIT {rows_max:UInt32}
