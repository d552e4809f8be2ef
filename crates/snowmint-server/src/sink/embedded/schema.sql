-- The document's tables, with one row a range of IDs instead of one an ID. Rows are only added at the end and
-- taken away at the front, so that their rowids are in order and without a gap. Times are Unix milliseconds;
-- a node without a slot has null for both parts of it.

CREATE TABLE id_generation_events (
    event_id INTEGER PRIMARY KEY,
    timestamp INTEGER NOT NULL,
    datacenter_id INTEGER,
    worker_id INTEGER,
    first_id INTEGER,
    count INTEGER NOT NULL,
    generation_latency_us INTEGER NOT NULL,
    client_ip TEXT,
    client_user_agent TEXT NOT NULL,
    request_id TEXT NOT NULL,
    error_code INTEGER NOT NULL,
    error_message TEXT NOT NULL
);

CREATE TABLE performance_metrics (
    event_id INTEGER PRIMARY KEY,
    timestamp INTEGER NOT NULL,
    datacenter_id INTEGER,
    worker_id INTEGER,
    metric_name TEXT NOT NULL,
    metric_value REAL NOT NULL
);

CREATE TABLE clock_drift_events (
    event_id INTEGER PRIMARY KEY,
    timestamp INTEGER NOT NULL,
    datacenter_id INTEGER,
    worker_id INTEGER,
    drift_ms INTEGER NOT NULL,
    ntp_server TEXT NOT NULL,
    ntp_stratum INTEGER NOT NULL,
    system_time INTEGER NOT NULL,
    ntp_time INTEGER NOT NULL,
    corrective_action TEXT NOT NULL
);

CREATE TABLE sequence_overflow_events (
    event_id INTEGER PRIMARY KEY,
    timestamp INTEGER NOT NULL,
    datacenter_id INTEGER,
    worker_id INTEGER,
    overflow_count INTEGER NOT NULL,
    wait_time_ms INTEGER NOT NULL,
    requests_queued INTEGER NOT NULL,
    load_factor REAL NOT NULL
);

-- What the reports are made of, exact whatever became of the rows above. Minutes count from 1970; a node without
-- a slot is -1, because a key has no null. Where rows are long, a table without rowids would give each a page more.

CREATE TABLE requests_by_minute (
    minute INTEGER NOT NULL,
    datacenter_id INTEGER NOT NULL,
    worker_id INTEGER NOT NULL,
    ids INTEGER NOT NULL,
    issued INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    latency_sum_us INTEGER NOT NULL,
    latency_max_us INTEGER NOT NULL,
    latencies BLOB NOT NULL,
    PRIMARY KEY (minute, datacenter_id, worker_id)
);

CREATE TABLE errors_by_minute (
    minute INTEGER NOT NULL,
    datacenter_id INTEGER NOT NULL,
    worker_id INTEGER NOT NULL,
    error_code INTEGER NOT NULL,
    error_message TEXT NOT NULL,
    errors INTEGER NOT NULL,
    PRIMARY KEY (minute, datacenter_id, worker_id, error_code, error_message)
) WITHOUT ROWID;

CREATE TABLE drift_by_minute (
    minute INTEGER NOT NULL,
    datacenter_id INTEGER NOT NULL,
    worker_id INTEGER NOT NULL,
    drifts INTEGER NOT NULL,
    drift_sum_ms INTEGER NOT NULL,
    drift_max_ms INTEGER NOT NULL,
    PRIMARY KEY (minute, datacenter_id, worker_id)
) WITHOUT ROWID;

CREATE TABLE overflow_by_minute (
    minute INTEGER NOT NULL,
    datacenter_id INTEGER NOT NULL,
    worker_id INTEGER NOT NULL,
    bursts INTEGER NOT NULL,
    overflows INTEGER NOT NULL,
    wait_sum_ms INTEGER NOT NULL,
    wait_max_ms INTEGER NOT NULL,
    load_sum REAL NOT NULL,
    PRIMARY KEY (minute, datacenter_id, worker_id)
) WITHOUT ROWID;

-- The number after the last event that is stored, for each journal.
CREATE TABLE journals (
    journal BLOB PRIMARY KEY,
    stored INTEGER NOT NULL
) WITHOUT ROWID;
