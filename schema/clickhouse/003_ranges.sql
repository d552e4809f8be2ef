-- What travels: one row per range of IDs that a request got, and one with count 0 per request that failed. The table keeps
-- nothing (ENGINE = Null): the views below turn each row into the rows of id_generation_events and into the totals.

CREATE TABLE IF NOT EXISTS id_ranges (
    event_id UUID,
    timestamp DateTime64(3, 'UTC'),
    datacenter_id UInt16,
    worker_id UInt16,
    first_id Int64,
    count UInt32,
    first_sequence UInt32,
    -- 1 on the first range of a request, 0 on its others: so that requests can be counted.
    requests UInt8,
    latency_us UInt32,
    -- The highest latency of the bucket that it is counted in: the service says which, so that all stores agree.
    latency_bucket_us UInt32,
    client_ip String,
    client_user_agent String,
    request_id String,
    error_code UInt16,
    error_message String,
    -- Whether it becomes rows of id_generation_events (`metrics.detail`). Totals count it either way.
    detail UInt8
) ENGINE = Null;

CREATE MATERIALIZED VIEW IF NOT EXISTS id_ranges_to_events TO id_generation_events AS
SELECT
    event_id,
    timestamp,
    datacenter_id,
    worker_id,
    if(count = 0, 0, first_id + n) AS generated_id,
    first_sequence + n AS sequence_number,
    latency_us AS generation_latency_us,
    client_ip,
    client_user_agent,
    request_id,
    error_code,
    error_message
FROM id_ranges
ARRAY JOIN range(greatest(count, 1)) AS n
WHERE detail;

-- Totals by the minute: exact whatever `metrics.detail` says, and what the reports read. One row per worker, minute and
-- error; error_code 0 is what went well.
CREATE TABLE IF NOT EXISTS id_generation_minutely (
    minute DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    datacenter_id UInt16,
    worker_id UInt16,
    error_code UInt16,
    error_message String,
    ids SimpleAggregateFunction(sum, UInt64),
    requests SimpleAggregateFunction(sum, UInt64),
    latency_us_sum SimpleAggregateFunction(sum, UInt64),
    latency_us_max SimpleAggregateFunction(max, UInt32),
    -- How many requests in each bucket of latencies, by the highest of the bucket: what quantiles are made of.
    latency_us_buckets SimpleAggregateFunction(sumMap, Map(UInt32, UInt64))
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (datacenter_id, worker_id, minute, error_code, error_message)
TTL toDateTime(minute) + INTERVAL 90 DAY
SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS id_ranges_to_minutely TO id_generation_minutely AS
SELECT
    toDateTime(toStartOfMinute(timestamp), 'UTC') AS minute,
    datacenter_id,
    worker_id,
    error_code,
    error_message,
    sum(count) AS ids,
    sum(toUInt64(requests)) AS requests,
    sum(toUInt64(latency_us) * r.requests) AS latency_us_sum,
    max(latency_us) AS latency_us_max,
    sumMap(map(latency_bucket_us, toUInt64(r.requests))) AS latency_us_buckets
FROM id_ranges AS r
GROUP BY minute, datacenter_id, worker_id, error_code, error_message;
