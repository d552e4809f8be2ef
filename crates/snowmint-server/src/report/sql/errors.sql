-- As the document has it, but a minute's errors are held against the requests of that minute and worker, not against
-- everything of the whole hour: 10 % were shown as 0.067 %.
SELECT
    formatDateTime(minute, '%Y-%m-%dT%H:%i:%SZ') AS minute_text,
    datacenter_id,
    worker_id,
    error_code,
    error_message,
    sum(t.requests) AS error_count,
    error_count * 100 / all_requests AS error_rate_percent
FROM id_generation_minutely AS t
INNER JOIN (
    SELECT minute, datacenter_id, worker_id, sum(a.requests) AS all_requests
    FROM id_generation_minutely AS a
    WHERE minute >= toDateTime(intDiv({from_ms:Int64}, 1000), 'UTC')
        AND minute < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')
        AND ({datacenter:Int32} < 0 OR datacenter_id = {datacenter:Int32})
        AND ({worker:Int32} < 0 OR worker_id = {worker:Int32})
    GROUP BY minute, datacenter_id, worker_id
) AS whole USING (minute, datacenter_id, worker_id)
WHERE error_code != 0
GROUP BY minute, datacenter_id, worker_id, error_code, error_message, all_requests
ORDER BY minute DESC, error_count DESC, (datacenter_id, worker_id) != (65535, 65535), datacenter_id, worker_id, error_code, error_message
LIMIT {rows_max:UInt32}
