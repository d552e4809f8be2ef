-- How many days each table is kept. It was ENGINE = Memory, which is empty after a restart, and nothing read it. Here it is
-- durable, and `snowmint retention apply` turns it into the tables' TTLs. The newest row of a table counts.
CREATE TABLE IF NOT EXISTS retention_policy (
    table_name String,
    retention_days UInt16,
    partition_key String,
    changed_at DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = ReplacingMergeTree(changed_at)
ORDER BY table_name;

-- Only where there is none yet: applied again, it does not undo what was changed.
INSERT INTO retention_policy (table_name, retention_days, partition_key)
SELECT d.1, d.2, 'toYYYYMM(timestamp)'
FROM (SELECT arrayJoin([
    ('id_generation_events', 90),
    ('performance_metrics', 365),
    ('clock_drift_events', 180),
    ('sequence_overflow_events', 180)
]) AS d)
WHERE d.1 NOT IN (SELECT table_name FROM retention_policy);
