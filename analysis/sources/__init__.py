"""Where runs are read from: one module per kind of record, each giving ``analysis.record.RunRecord``."""
