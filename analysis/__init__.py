"""Tables, statistics and figures from the records of a study. Reads parquet; never touches a device."""
