//! What `ignite store` does to executions while nothing serves: check, compact, export.
