-- The hourly and the daily view. As they were designed, they were SummingMergeTrees of averages and maxima, which add these
-- up whenever parts merge: of 32 on average, 90 at most and 10 at least, 120, 120 and 120 were left. Here the states are
-- kept (AggregatingMergeTree) and a plain view with the designed name and columns finishes them, so that it is right before
-- and after merges.

-- The hour has a name of its own: `toStartOfHour(timestamp) AS timestamp` hides the column that it is to be made of.
CREATE TABLE IF NOT EXISTS performance_metrics_hourly_states (
    hour DateTime('UTC'),
    datacenter_id UInt16,
    worker_id UInt16,
    metric_name String,
    value_sum SimpleAggregateFunction(sum, Float64),
    value_max SimpleAggregateFunction(max, Float64),
    value_min SimpleAggregateFunction(min, Float64),
    samples SimpleAggregateFunction(sum, UInt64)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (datacenter_id, worker_id, metric_name, hour)
TTL toDateTime(hour) + INTERVAL 365 DAY
SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS performance_metrics_to_hourly TO performance_metrics_hourly_states AS
SELECT
    toStartOfHour(timestamp) AS hour,
    datacenter_id,
    worker_id,
    metric_name,
    sum(metric_value) AS value_sum,
    max(metric_value) AS value_max,
    min(metric_value) AS value_min,
    count() AS samples
FROM performance_metrics
GROUP BY hour, datacenter_id, worker_id, metric_name;

CREATE VIEW IF NOT EXISTS performance_metrics_hourly AS
SELECT
    hour AS timestamp,
    datacenter_id,
    worker_id,
    metric_name,
    sum(value_sum) / sum(samples) AS avg_value,
    max(value_max) AS max_value,
    min(value_min) AS min_value,
    sum(samples) AS sample_count
FROM performance_metrics_hourly_states
GROUP BY hour, datacenter_id, worker_id, metric_name;

-- A row a day and worker, kept for ever. It is made of id_ranges and not of id_generation_events, which does not have every
-- ID when `metrics.detail` says so.
CREATE TABLE IF NOT EXISTS daily_id_stats_states (
    date Date,
    datacenter_id UInt16,
    worker_id UInt16,
    ids SimpleAggregateFunction(sum, UInt64),
    requests SimpleAggregateFunction(sum, UInt64),
    errors SimpleAggregateFunction(sum, UInt64),
    latency_us_sum SimpleAggregateFunction(sum, UInt64),
    latency_us_max SimpleAggregateFunction(max, UInt32)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(date)
ORDER BY (date, datacenter_id, worker_id)
SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS id_ranges_to_daily TO daily_id_stats_states AS
SELECT
    toDate(timestamp) AS date,
    datacenter_id,
    worker_id,
    sum(r.count) AS ids,
    sum(toUInt64(r.requests)) AS requests,
    sum(toUInt64(error_code != 0)) AS errors,
    sumIf(toUInt64(latency_us) * r.requests, error_code = 0) AS latency_us_sum,
    maxIf(latency_us, error_code = 0) AS latency_us_max
FROM id_ranges AS r
GROUP BY date, datacenter_id, worker_id;

-- total_ids does not count failed requests, which are rows too. A latency is a request's and counts once, however many IDs
-- it got: a row per ID would let one request of 10000 IDs outweigh thousands. Both are null on a day of failures alone.
CREATE VIEW IF NOT EXISTS daily_id_stats AS
SELECT
    date,
    datacenter_id,
    worker_id,
    sum(s.ids) AS total_ids,
    if(sum(s.requests) = sum(s.errors), NULL, sum(s.latency_us_sum) / (sum(s.requests) - sum(s.errors))) AS avg_latency,
    if(sum(s.requests) = sum(s.errors), NULL, max(s.latency_us_max)) AS max_latency,
    sum(s.requests) AS requests,
    sum(s.errors) AS error_count
FROM daily_id_stats_states AS s
GROUP BY date, datacenter_id, worker_id;
