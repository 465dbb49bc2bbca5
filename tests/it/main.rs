//! The tests of the whole product: the real binary, a real engine, real sockets.

// What the API, the app URLs and the command line answer.
mod api_apps;
mod api_catalog;
mod api_config;
mod api_errors;
mod api_invoke;
mod app_url;
mod authorization;
mod builds;
mod builds_cli;
mod builds_git;
mod cli;
mod cli_executions;
mod clients;
mod dev;
mod downgrade;
mod edge;
mod executions;
mod hostile;
mod identity;
mod images;
mod kernel;
mod leaks;
mod limits;
mod protocols;
mod pruned;
mod python;
mod python_server;
mod runtimes;
mod smuggling;

mod disk_full;
mod disk_quota;
mod engine_restart;
mod execution_crash;
mod execution_order;
mod readme;
mod signals;
mod smoke;
mod storage;
mod support;

// What the fleet does with replicas.
mod cold_start;
mod control;
mod engine_loss;
mod failures;
mod files;
mod homes;
mod hostile_labels;
mod leases;
mod lifecycle;
mod logs;
mod neighbours;
mod network;
mod processes;
mod publishing;
mod restart;
mod scale_to_zero;
mod scaling;
mod secrets;
mod standby;
mod trials;
mod trust;
mod versions;
mod wrong_images;
