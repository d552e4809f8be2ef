-- The four tables that everything is kept in: names, columns, keys and indexes as they were designed. What differs, and
-- why, in all four:
--
-- * datacenter_id and worker_id are UInt16 (were UInt8), sequence_number is UInt32 (was UInt16): layouts such as
--   41/0/10/12 have 1024 workers, and an UInt8 would silently wrap around.
-- * What happened while the node held no slot has 65535 for both.
-- * The TTL does what a DROP PARTITION by month cannot: it keeps exactly so many days. `snowmint retention` changes it.
-- * Inserts carry a token, and the last 10000 tokens are remembered (non_replicated_deduplication_window), so that a
--   batch whose answer was lost is counted once when it is sent again.
-- * Codecs: times and IDs of one worker go up steadily, which takes next to no space.

-- One row per ID, and one per failed request (generated_id 0, error_code not 0). Nothing is inserted here: rows come from
-- id_ranges. event_id is the request's, so that it is the same for all IDs of one request.
--
-- The indexes are part of the table instead of CREATE INDEX after it: that fails when it is done again, and covers only
-- parts written later. They need a granularity. idx_worker repeats the beginning of the key and costs little.
CREATE TABLE IF NOT EXISTS id_generation_events (
    event_id UUID DEFAULT generateUUIDv4() CODEC(ZSTD(1)),
    timestamp DateTime64(3, 'UTC') DEFAULT now64() CODEC(DoubleDelta, ZSTD(1)),
    datacenter_id UInt16,
    worker_id UInt16,
    generated_id Int64 CODEC(DoubleDelta, ZSTD(1)),
    sequence_number UInt32 CODEC(DoubleDelta, ZSTD(1)),
    generation_latency_us UInt32 CODEC(ZSTD(1)),
    client_ip String CODEC(ZSTD(1)),
    client_user_agent String CODEC(ZSTD(1)),
    request_id String CODEC(ZSTD(1)),
    error_code UInt16 DEFAULT 0,
    error_message String DEFAULT '',
    INDEX idx_timestamp timestamp TYPE minmax GRANULARITY 1,
    INDEX idx_worker (datacenter_id, worker_id) TYPE set(100) GRANULARITY 1,
    INDEX idx_error error_code TYPE set(10) GRANULARITY 1
) ENGINE = MergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (datacenter_id, worker_id, timestamp)
TTL toDateTime(timestamp) + INTERVAL 90 DAY
SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS performance_metrics (
    timestamp DateTime('UTC'),
    datacenter_id UInt16,
    worker_id UInt16,
    metric_name String,
    metric_value Float64,
    tags Map(String, String)
) ENGINE = MergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (datacenter_id, worker_id, metric_name, timestamp)
TTL toDateTime(timestamp) + INTERVAL 365 DAY
SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS clock_drift_events (
    timestamp DateTime64(3, 'UTC'),
    datacenter_id UInt16,
    worker_id UInt16,
    drift_ms Int32,
    ntp_server String,
    ntp_stratum UInt8,
    system_time DateTime64(3, 'UTC'),
    ntp_time DateTime64(3, 'UTC'),
    corrective_action String
) ENGINE = MergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (datacenter_id, worker_id, timestamp)
TTL toDateTime(timestamp) + INTERVAL 180 DAY
SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS sequence_overflow_events (
    timestamp DateTime64(3, 'UTC'),
    datacenter_id UInt16,
    worker_id UInt16,
    overflow_count UInt32,
    wait_time_ms UInt32,
    requests_queued UInt32,
    load_factor Float32
) ENGINE = MergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (datacenter_id, worker_id, timestamp)
TTL toDateTime(timestamp) + INTERVAL 180 DAY
SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000;
