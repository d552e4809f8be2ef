-- As the document has it, of every table that keeps something, and from when until when. Rows are counted and not read off
-- system.parts, so that it is those of all shards where there are several; bytes are those of this server.
SELECT
    t.table,
    t.rows,
    bytes,
    if(t.rows = 0, NULL, t.oldest) AS oldest,
    if(t.rows = 0, NULL, t.newest) AS newest
FROM (
    SELECT 'clock_drift_events' AS table, count() AS rows, formatDateTime(toDateTime64(min(timestamp), 3, 'UTC'), '%Y-%m-%dT%H:%i:%S.%fZ') AS oldest, formatDateTime(toDateTime64(max(timestamp), 3, 'UTC'), '%Y-%m-%dT%H:%i:%S.%fZ') AS newest FROM clock_drift_events
    UNION ALL
    SELECT 'daily_id_stats_states' AS table, count() AS rows, formatDateTime(toDateTime64(min(toDateTime(date, 'UTC')), 3, 'UTC'), '%Y-%m-%dT%H:%i:%S.%fZ') AS oldest, formatDateTime(toDateTime64(max(toDateTime(date, 'UTC')), 3, 'UTC'), '%Y-%m-%dT%H:%i:%S.%fZ') AS newest FROM daily_id_stats_states
    UNION ALL
    SELECT 'id_generation_events' AS table, count() AS rows, formatDateTime(toDateTime64(min(timestamp), 3, 'UTC'), '%Y-%m-%dT%H:%i:%S.%fZ') AS oldest, formatDateTime(toDateTime64(max(timestamp), 3, 'UTC'), '%Y-%m-%dT%H:%i:%S.%fZ') AS newest FROM id_generation_events
    UNION ALL
    SELECT 'id_generation_minutely' AS table, count() AS rows, formatDateTime(toDateTime64(min(minute), 3, 'UTC'), '%Y-%m-%dT%H:%i:%S.%fZ') AS oldest, formatDateTime(toDateTime64(max(minute), 3, 'UTC'), '%Y-%m-%dT%H:%i:%S.%fZ') AS newest FROM id_generation_minutely
    UNION ALL
    SELECT 'performance_metrics' AS table, count() AS rows, formatDateTime(toDateTime64(min(timestamp), 3, 'UTC'), '%Y-%m-%dT%H:%i:%S.%fZ') AS oldest, formatDateTime(toDateTime64(max(timestamp), 3, 'UTC'), '%Y-%m-%dT%H:%i:%S.%fZ') AS newest FROM performance_metrics
    UNION ALL
    SELECT 'performance_metrics_hourly_states' AS table, count() AS rows, formatDateTime(toDateTime64(min(hour), 3, 'UTC'), '%Y-%m-%dT%H:%i:%S.%fZ') AS oldest, formatDateTime(toDateTime64(max(hour), 3, 'UTC'), '%Y-%m-%dT%H:%i:%S.%fZ') AS newest FROM performance_metrics_hourly_states
    UNION ALL
    SELECT 'sequence_overflow_events' AS table, count() AS rows, formatDateTime(toDateTime64(min(timestamp), 3, 'UTC'), '%Y-%m-%dT%H:%i:%S.%fZ') AS oldest, formatDateTime(toDateTime64(max(timestamp), 3, 'UTC'), '%Y-%m-%dT%H:%i:%S.%fZ') AS newest FROM sequence_overflow_events
) AS t
LEFT JOIN (
    SELECT replaceRegexpOne(table, '_local$', '') AS table, sum(bytes_on_disk) AS bytes
    FROM system.parts
    WHERE active AND database = currentDatabase()
    GROUP BY table
) AS p USING (table)
ORDER BY table
LIMIT {rows_max:UInt32}
