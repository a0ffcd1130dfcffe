"""Analysis of records: tables, figures and the report. Never imports jax."""
