-- Which of these files were applied, and when. A file that was released is never changed: a change is a new file.
CREATE TABLE IF NOT EXISTS schema_versions (
    version UInt32,
    name String,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = ReplacingMergeTree(applied_at)
ORDER BY version;
